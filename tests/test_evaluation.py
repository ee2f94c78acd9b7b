import itertools

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn.functional import normalize

from mmcoke.datasets import InMemoryImages
from mmcoke.evaluation import (
    clustering_scores,
    extract_features,
    knn_classify,
    linear_probe,
    linear_probe_folds,
)
from mmcoke.evaluation.linear_probe import fit_and_predict
from mmcoke.registry import MODELS


def blobs(num_samples, seed, num_classes=3, dim=5, spread=0.9):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(num_classes, (num_samples,), generator=generator)
    noise = torch.randn(num_samples, dim, generator=generator) * spread
    return torch.eye(dim)[y] * 2 + noise, y


def test_knn_equals_the_definition():
    (x, y), (x_test, _) = blobs(60, 0), blobs(30, 1)
    predicted = knn_classify(x, y, x_test, k=7, temperature=0.1, chunk_size=8)
    for row, label in zip(normalize(x_test, dim=1), predicted.tolist(), strict=True):
        similarity = normalize(x, dim=1) @ row
        nearest = similarity.argsort(descending=True)[:7]
        votes = [0.0] * 3
        for i in nearest.tolist():
            votes[y[i]] += np.exp(similarity[i].item() / 0.1)
        assert label == int(np.argmax(votes))


def test_knn_survives_a_small_temperature():
    x, y = blobs(60, 0)
    assert torch.equal(knn_classify(x, y, x, k=5, temperature=1e-4), y)


@pytest.mark.parametrize('k', [0, 61])
def test_knn_refuses_a_k_outside_the_training_set(k):
    x, y = blobs(60, 0)
    with pytest.raises(ValueError, match=r'1 \.\.\. 60'):
        knn_classify(x, y, x, k=k)


def test_linear_probe_learns_what_is_linear():
    (x, y), (x_test, y_test) = blobs(300, 0, spread=0.3), blobs(100, 1, spread=0.3)
    assert (linear_probe(x, y, x_test) == y_test).float().mean() > 0.97


def test_linear_probe_is_the_minimum_of_the_penalized_cross_entropy():
    """Against torch's L-BFGS in double precision, on samples that no line separates."""
    (x, y), (x_test, y_test) = blobs(300, 0), blobs(1000, 1)
    mean, std = x.double().mean(0), x.double().std(0, correction=0)
    z, z_test = (x - mean) / std, (x_test - mean) / std
    weight = torch.zeros(5, 3, dtype=torch.double, requires_grad=True)
    bias = torch.zeros(3, dtype=torch.double, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias],
        max_iter=1000,
        tolerance_grad=1e-10,
        tolerance_change=1e-14,
        line_search_fn='strong_wolfe',
    )

    def objective():
        solver.zero_grad()
        loss = torch.nn.functional.cross_entropy(z @ weight + bias, y, reduction='sum')
        loss = loss + weight.square().sum() / 2
        loss.backward()
        return loss

    solver.step(objective)
    predicted = linear_probe(x, y, x_test)
    assert torch.equal(predicted, (z_test @ weight + bias).argmax(1))
    assert 0.8 < (predicted == y_test).float().mean() < 0.99


def test_linear_probe_equals_scikit_learn():
    (x, y), (x_test, _) = blobs(300, 0), blobs(1000, 1)
    scaler = StandardScaler().fit(x.numpy())
    probe = LogisticRegression(C=0.01, max_iter=1000).fit(scaler.transform(x.numpy()), y.numpy())
    expected = probe.predict(scaler.transform(x_test.numpy()))
    assert linear_probe(x, y, x_test, c=0.01).tolist() == expected.tolist()
    arrays = x.numpy(), y.numpy(), x_test.numpy()
    assert linear_probe(*arrays, c=0.01).tolist() == expected.tolist()


def test_the_probe_of_a_gpu_has_the_minimum_of_scikit_learn():
    (x, y), (x_test, _) = blobs(300, 0), blobs(1000, 1)
    scaler = StandardScaler().fit(x.numpy())
    z, z_test = (torch.from_numpy(scaler.transform(part.numpy())).double() for part in (x, x_test))
    with torch.no_grad():  # as a hook may call it
        found = fit_and_predict(z, 10 * y, z_test, 0.01, 1000)
    expected = LogisticRegression(C=0.01, max_iter=1000).fit(z.numpy(), y.numpy()).predict(z_test)
    assert (found == 10 * torch.from_numpy(expected)).double().mean() > 0.998


def test_clustering_accuracy_is_the_best_matching():
    random = np.random.default_rng(0)
    target, label = random.integers(0, 4, 200), random.integers(0, 4, 200)
    label[:120] = (target[:120] + 1) % 4
    scores = clustering_scores(label, target)
    matchings = itertools.permutations(range(4))
    best = max((np.array(matching)[label] == target).mean() for matching in matchings)
    assert scores['acc'] == pytest.approx(best)
    assert scores['nmi'] == pytest.approx(normalized_mutual_info_score(target, label))
    assert scores['ari'] == pytest.approx(adjusted_rand_score(target, label))


def test_nmi_and_ari_equal_brute_force():
    """From the definitions: mutual information by probabilities, Rand index over all pairs."""
    random = np.random.default_rng(0)
    target = random.integers(0, 5, 80)
    label = np.where(random.random(80) < 0.6, target % 3, random.integers(0, 7, 80))
    p = np.array([[np.mean((target == t) & (label == k)) for k in range(7)] for t in range(5)])
    p_target, p_label = p.sum(1), p.sum(0)
    mutual = sum(
        p[t, k] * np.log(p[t, k] / p_target[t] / p_label[k]) for t, k in np.argwhere(p > 0)
    )
    entropies = [-sum(q * np.log(q) for q in margin if q) for margin in (p_target, p_label)]

    pairs = list(itertools.combinations(range(80), 2))
    same_target = np.array([target[i] == target[j] for i, j in pairs])
    same_label = np.array([label[i] == label[j] for i, j in pairs])
    chance = same_target.sum() * same_label.sum() / len(pairs)
    most = (same_target.sum() + same_label.sum()) / 2
    ari = ((same_target & same_label).sum() - chance) / (most - chance)

    scores = clustering_scores(label, target)
    assert scores['nmi'] == pytest.approx(mutual / np.mean(entropies), abs=1e-6)
    assert scores['ari'] == pytest.approx(ari, abs=1e-6)
    assert 0.1 < scores['ari'] < scores['nmi'] < 0.9


def test_more_clusters_than_classes_match_one_each():
    scores = clustering_scores([0, 0, 1, 2, 2, 3], [0, 0, 0, 1, 1, 1])
    assert scores['acc'] == pytest.approx(4 / 6)


def test_clusters_named_otherwise_are_still_right():
    assert clustering_scores([5, 5, -1, -1], [0, 0, 1, 1])['acc'] == 1


def test_empty_or_unequal_input_is_refused():
    with pytest.raises(ValueError, match='same length'):
        clustering_scores([0, 1], [0])
    with pytest.raises(ValueError, match='same length'):
        clustering_scores([], [])


def test_features_are_in_order_and_do_not_depend_on_the_batch(tiny_config):
    init_default_scope('mmcoke')
    model = MODELS.build(tiny_config.model)
    digits = InMemoryImages('digits', 'test', pipeline=tiny_config.pipeline)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pooled, projected = extract_features(model, digits, batch_size=100)
    again, _ = extract_features(model, digits, batch_size=64, num_workers=1)
    assert pooled.shape == (540, 16) and projected.shape == (540, 8)
    torch.testing.assert_close(again, pooled)
    torch.testing.assert_close(projected.norm(dim=1), torch.ones(540))
    assert model.training
    assert all(torch.equal(before[name], v) for name, v in model.state_dict().items())


@pytest.mark.parametrize('chunk_size', [7, 1 << 22])
def test_scores_equal_scikit_learn_for_any_integers_in_any_chunks(chunk_size, monkeypatch):
    monkeypatch.setattr('mmcoke.evaluation.clustering.CHUNK_SIZE', chunk_size)
    random = np.random.default_rng(0)
    for _ in range(50):
        size = random.integers(1, 60)
        target, label = (
            random.integers(-1, random.integers(0, 9), size, endpoint=True) for _ in range(2)
        )
        scores = clustering_scores(label, target)
        assert scores['nmi'] == pytest.approx(normalized_mutual_info_score(target, label))
        assert scores['ari'] == pytest.approx(adjusted_rand_score(target, label))
        far = clustering_scores(label * 2**40, (target + 1).astype(np.uint64) + np.uint64(2**63))
        assert far == pytest.approx(scores)
        assert clustering_scores(label.astype(np.int8), target.astype(np.int16)) == scores


@pytest.mark.parametrize(
    ('label', 'message'),
    [
        ([0, 1], 'same length'),
        ([], 'same length'),
        ([[0], [1], [1]], 'same length'),
        ([0.0, np.nan, 1.0], 'must be integers, but there are float64'),
        (['a', 'b', 'c'], 'must be integers'),
    ],
)
def test_labels_that_are_no_clustering_are_refused(label, message):
    with pytest.raises(ValueError, match=message):
        clustering_scores(label, [0, 1, 1])


@pytest.mark.parametrize('factor', [1e-38, 1e-25, 1e-20, 1e20, 1e25, 1e37])
def test_a_linear_probe_does_not_depend_on_the_size_of_the_features(factor):
    (x, y), (x_test, _) = blobs(100, 0), blobs(100, 1)
    expected = linear_probe(x, y, x_test)
    assert (linear_probe(x * factor, y, x_test * factor) == expected).double().mean() > 0.98
    scale = torch.ones(5)
    scale[2] = factor  # one feature alone
    assert (linear_probe(x * scale, y, x_test * scale) == expected).double().mean() > 0.98


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(x_train=torch.full((60, 5), torch.nan)), 'NaN or infinite'),
        (dict(x_test=torch.full((60, 5), -torch.inf)), 'NaN or infinite'),
        (dict(y_train=torch.ones(60)), '60 integers, one for each training sample, .* float32'),
        (dict(y_train=torch.ones(59, dtype=torch.int64)), r'60 integers.*\(59,\)'),
        (dict(y_train=torch.ones(60, 2, dtype=torch.int64)), r'\(60, 2\)'),
        (dict(y_train=torch.ones(60, dtype=torch.int64)), 'of one class'),
    ],
)
def test_what_cannot_be_probed_is_refused(change, message):
    x, y = blobs(60, 0)
    with pytest.raises(ValueError, match=message):
        linear_probe(**dict(x_train=x, y_train=y, x_test=x) | change)


def test_a_cross_validated_probe_equals_scikit_learns():
    x, y = blobs_of_classes()
    folds = StratifiedKFold(5, shuffle=True, random_state=3)
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    expected = cross_val_predict(probe, x.numpy(), y.numpy(), cv=folds)
    found = linear_probe_folds(x, y, seed=3)
    assert found.tolist() == expected.tolist()
    assert 0.3 < (found == y).double().mean() < 1


def blobs_of_classes():
    """Three overlapping classes of 10, 20 and 30 samples."""
    generator = torch.Generator().manual_seed(0)
    y = torch.tensor([0] * 10 + [1] * 20 + [2] * 30)
    x = torch.randn(60, 4, generator=generator) + torch.eye(4)[y]
    return x, y


def test_a_cross_validated_probe_takes_as_many_parts_as_the_smallest_class_has_samples():
    x, y = torch.eye(6), torch.tensor([0, 0, 1, 1, 1, 1])
    seen = []
    linear_probe_folds(x, y, progress=lambda folds: seen.append(len(folds)) or folds)
    assert seen == [2]
    with pytest.raises(ValueError, match=r'single sample.*at least 2 images'):
        linear_probe_folds(x, torch.tensor([0, 1, 1, 1, 1, 1]))
