import pytest
import torch
from torch.nn.functional import normalize

from mmcoke.clustering import DeepClusterLabeler, cluster_weight, kmeans, pca_whiten

A, K, D = 300, 10, 12


def features(seed=0):
    generator = torch.Generator().manual_seed(seed)
    scale = torch.linspace(0.2, 2, D)
    return torch.randn(A, D, generator=generator) * scale + 1


def labeler(**options):
    return DeepClusterLabeler(A, K, **(dict(pca_dim=6) | options))


def test_refit_labels_all_and_no_cluster_is_empty():
    model = labeler()
    model.refit(features())
    label = model.step(torch.empty(A, D), torch.arange(A))
    assert label.dtype == torch.int64
    assert (label.min(), label.max()) == (0, K - 1)
    assert model.sizes().min() >= 1
    assert model.sizes().tolist() == torch.bincount(label, minlength=K).tolist()


def test_what_is_clustered_is_whitened_components():
    model = labeler()
    model.refit(features())
    expected = kmeans(pca_whiten(features(), 6), K)
    assert torch.equal(model.labels.label.long(), expected.label)


def test_without_components_the_normalized_features_are_clustered():
    model = labeler(pca_dim=None)
    model.refit(features())
    expected = kmeans(normalize(features(), dim=1), K)
    assert torch.equal(model.labels.label.long(), expected.label)


def test_number_of_iterations_and_progress_reach_k_means():
    seen = []

    def progress(iterations):
        for i in iterations:
            seen.append(i)
            yield i

    labeler(num_iters=3).cluster(features(), progress)
    assert len(seen) == 3


def test_each_clustering_starts_from_other_samples():
    model = labeler()
    model.refit(features())
    first = model.labels.label.clone()
    model.refit(features())
    assert not torch.equal(model.labels.label, first)
    other = labeler(seed=1)
    other.refit(features())
    assert torch.equal(other.labels.label, model.labels.label)


def test_the_same_seed_gives_the_same_labels():
    one, other = labeler(seed=3), labeler(seed=3)
    for global_seed, model in enumerate((one, other)):
        torch.manual_seed(global_seed)
        model.refit(features())
    assert torch.equal(one.labels.label, other.labels.label)


def test_a_step_reads_the_newest_labels():
    model, idx = labeler(), torch.tensor([5, 299, 0, 5])
    for seed in range(3):
        model.refit(features(seed))
        expected = model.labels.label[idx].long()
        assert torch.equal(model.step(torch.empty(4, D), idx), expected)
        assert torch.equal(model.step(torch.empty(4, D), idx), expected)


def test_a_step_before_the_first_clustering_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r'call refit\(x_AD\).*hook'):
        labeler().step(torch.empty(2, D), torch.tensor([0, 1]))


def test_cluster_takes_nothing_over_and_refit_takes_its_result():
    one, other = labeler(), labeler()
    clusters = one.cluster(features())
    with pytest.raises(ValueError, match='refit'):
        one.step(torch.empty(1, D), torch.tensor([0]))
    one.refit(torch.empty(0, D), clusters)
    other.refit(features())
    one_state, other_state = one.state_dict(), other.state_dict()
    assert all(torch.equal(one_state[name], value) for name, value in other_state.items())


@pytest.mark.parametrize('num_before', [0, 1, 3])
def test_resume_continues_identically(num_before):
    whole, first, resumed = labeler(), labeler(), labeler()
    for seed in range(num_before):
        whole.refit(features(seed))
        first.refit(features(seed))
    resumed.load_state_dict(first.state_dict())
    for seed in range(num_before, 4):
        whole.refit(features(seed))
        resumed.refit(features(seed))
        assert torch.equal(whole.labels.label, resumed.labels.label)
    assert torch.equal(whole.size, resumed.size)
    assert whole.num_fits == resumed.num_fits == 4


def test_labels_and_sizes_are_saved():
    model, other = labeler(), labeler()
    model.refit(features())
    other.load_state_dict(model.state_dict())
    idx = torch.arange(A)
    assert torch.equal(other.step(torch.empty(A, D), idx), model.step(torch.empty(A, D), idx))
    assert torch.equal(other.sizes(), model.sizes())


@pytest.mark.parametrize(
    ('power', 'expected'),
    [(0.0, [1, 0, 1, 1]), (0.5, [1 / 2, 0, 1, 1 / 3]), (1.0, [1 / 4, 0, 1, 1 / 9])],
)
def test_weights_are_sizes_to_minus_the_power_and_0_for_empty_clusters(power, expected):
    weight = cluster_weight(torch.tensor([4, 0, 1, 9]), power)
    torch.testing.assert_close(weight, torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize('power', [0.0, 0.5])
def test_weights_of_the_labeler_are_those_of_its_sizes(power):
    model = labeler(reweight_pow=power)
    model.refit(features())
    assert torch.equal(model.cluster_weight(), cluster_weight(model.sizes(), power))


def test_more_clusters_than_samples_are_refused_with_both_numbers():
    with pytest.raises(ValueError, match=r'num_clusters=11 .* 10 samples'):
        DeepClusterLabeler(10, 11)


def test_too_many_components_are_refused_at_the_clustering():
    with pytest.raises(ValueError, match=r'pca_dim must be in 1 \.\.\. 12'):
        DeepClusterLabeler(A, K).refit(features())


def test_clustering_stays_in_float32_under_autocast():
    plain, mixed = labeler(), labeler()
    plain.refit(features())
    with torch.autocast('cpu', torch.bfloat16):
        mixed.refit(features())
    assert torch.equal(plain.labels.label, mixed.labels.label)


@pytest.mark.parametrize('idx', [-1, 60])
def test_a_step_with_an_index_outside_the_data_set_is_refused(idx):
    model = DeepClusterLabeler(60, 4, pca_dim=3)
    model.refit(torch.randn(60, 5, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(ValueError, match=f'sample_idx runs from {idx} .* 60 samples'):
        model.step(torch.zeros(1, 5), torch.tensor([idx]))


def test_samples_that_are_left_out_have_no_label_and_are_in_no_cluster():
    model = DeepClusterLabeler(60, 4, pca_dim=3)
    x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    model.refit(x, model.cluster(x), left_out=[7, 20])
    assert model.step(torch.zeros(2, 5), torch.tensor([7, 20])).tolist() == [-1, -1]
    assert model.sizes().sum() == 58 and (model.labels.label == -1).sum() == 2


@pytest.mark.parametrize('pca_dim', [None, 3])
@pytest.mark.parametrize('exponent', [-100, 100])
def test_clusters_do_not_depend_on_the_size_of_the_features(pca_dim, exponent):
    x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    model = DeepClusterLabeler(60, 4, pca_dim=pca_dim)
    assert torch.equal(model.cluster(x * 2.0**exponent).label, model.cluster(x).label)
