"""Numbers about a clustering, by hand."""

import math

import pytest
import torch
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from mmcoke.clustering import OnlineConstrainedKMeans
from mmcoke.clustering.diagnostics import (
    agreement,
    dual_statistics,
    floats,
    pair_counts,
    similarities,
    size_statistics,
    spread,
)


def test_sizes_by_hand():
    found = floats(size_statistics(torch.tensor([0, 1, 3, 4]), lower_bound=0.2))
    entropy = math.log(8) / 8 + 3 / 8 * math.log(8 / 3) + math.log(2) / 2
    expected = dict(min_size=0, q10_size=0.3, q50_size=2, q90_size=3.7, max_size=4)
    expected |= dict(entropy=entropy, perplexity=math.exp(entropy))
    expected |= dict(num_empty=1, num_small=2, violation=0.2 + 0.2 - 1 / 8)
    assert found == pytest.approx(expected)


def test_equal_clusters_have_their_number_as_perplexity_and_one_cluster_has_1():
    assert size_statistics(torch.full((7,), 5))['perplexity'] == pytest.approx(7)
    assert size_statistics(torch.tensor([0, 9, 0]))['perplexity'] == pytest.approx(1)
    assert floats(size_statistics(torch.zeros(3, dtype=torch.int64)))['entropy'] == 0


def test_duals_by_hand():
    now, before = torch.tensor([0.0, 0.5, 0.2]), torch.tensor([0.3, 0.1, 0.1])
    found = floats(dual_statistics(now, before, dual_lr=2.0, num_steps=10))
    expected = dict(min_dual=0, max_dual=0.5, positive_duals=2 / 3, violation_bound=0.5 / 20)
    assert found == pytest.approx(expected)
    assert 'violation_bound' not in dual_statistics(now, None, 2.0, 10)
    assert 'violation_bound' not in dual_statistics(now, before, 0.0, 10)


@pytest.mark.parametrize('dual_lr', [0.1, 2.0, 20.0])
def test_the_violation_of_an_epoch_is_not_above_the_bound_by_its_duals(dual_lr):
    generator = torch.Generator().manual_seed(0)
    x = torch.nn.functional.normalize(torch.randn(640, 8, generator=generator) + 1, dim=1)
    kmeans = OnlineConstrainedKMeans(20, 8, min_ratio=0.9, dual_lr=dual_lr)
    violations = []
    for epoch in range(6):
        before, sizes = kmeans.dual.clone(), torch.zeros(20)
        kmeans.set_epoch(epoch)
        for batch in x[torch.randperm(640, generator=generator)].split(64):
            label = kmeans.assign(batch)
            kmeans.update(batch, label)
            sizes += torch.bincount(label, minlength=20)
        kmeans.end_epoch()
        bound = dual_statistics(kmeans.dual, before, dual_lr, 10)['violation_bound']
        violations.append(size_statistics(sizes, 0.9 / 20)['violation'].item())
        assert violations[-1] <= bound + 1e-6
    assert max(violations) > 0  # the bound was put to the test


def test_similarity_and_margin_by_hand():
    x = torch.tensor([[2.0, 0.0], [0.0, 3.0], [3.0, 4.0], [1.0, 1.0]])
    centers = torch.tensor([[5.0, 0.0], [0.0, 1.0]])
    found = floats(similarities(x, torch.tensor([0, 1, 0, -1]), centers))
    assert found == pytest.approx(dict(similarity=(1 + 1 + 0.6) / 3, margin=(1 + 1 - 0.2) / 3))
    one = similarities(x, torch.tensor([0, 0, 0, 0]), centers[:1])
    assert set(one) == {'similarity'}
    assert similarities(x, torch.full((4,), -1), centers) == {}


def test_spread_of_equal_and_of_orthogonal_features():
    same = floats(spread(torch.ones(5, 4)))
    assert same == pytest.approx(dict(feature_std=0, effective_rank=0), abs=1e-6)
    # Plus and minus each axis: centred already, four equal singular values, variance 1/4 each.
    axes = torch.cat([torch.eye(4), -torch.eye(4)]) * 3
    assert floats(spread(axes)) == pytest.approx(dict(feature_std=1, effective_rank=4), abs=1e-4)
    flat = floats(spread(torch.tensor([[1.0, 0.1, 0], [1, -0.1, 0], [1, 0.2, 0], [1, -0.2, 0]])))
    assert flat['effective_rank'] < 1.2 and flat['feature_std'] < 0.2


def test_integers_of_the_label_tables_are_taken():
    x, centers = torch.eye(3), torch.eye(3)
    label = torch.tensor([0, 1, 2], dtype=torch.int8)
    assert floats(similarities(x, label, centers)) == dict(similarity=1, margin=1)


def test_pairs_of_labels_by_hand():
    first = torch.tensor([0, 1, 1, 0, 1, -1, 0])
    second = torch.tensor([2, 0, 0, 2, 1, 2, -1], dtype=torch.int8)
    assert pair_counts(first, second, 2, 4).tolist() == [[0, 0, 2, 0], [2, 1, 0, 0]]


@pytest.mark.parametrize('seed', range(8))
def test_agreement_is_scikit_learn_s(seed):
    generator = torch.Generator().manual_seed(seed)
    num_first, num_second, number = (int(x) for x in torch.randint(1, 9, (3,), generator=generator))
    first = torch.randint(0, num_first, (5 * number,), generator=generator)
    second = torch.randint(0, num_second, (5 * number,), generator=generator)
    if seed % 2:
        second = torch.where(torch.rand(len(first), generator=generator) < 0.8, first, second)
        num_second = max(num_first, num_second)
    found = floats(agreement(pair_counts(first, second, num_first, num_second)))
    assert found['nmi'] == pytest.approx(normalized_mutual_info_score(first, second), abs=1e-12)
    assert found['ari'] == pytest.approx(adjusted_rand_score(first, second), abs=1e-12)


@pytest.mark.parametrize(
    ('first', 'second'),
    [([0, 0, 0], [0, 0, 0]), ([0, 1, 2], [2, 0, 1]), ([0, 0, 0], [0, 1, 2]), ([0], [0])],
)
def test_agreement_at_the_ends(first, second):
    found = floats(agreement(pair_counts(torch.tensor(first), torch.tensor(second), 3, 3)))
    assert found['nmi'] == pytest.approx(normalized_mutual_info_score(first, second))
    assert found['ari'] == pytest.approx(adjusted_rand_score(first, second))
