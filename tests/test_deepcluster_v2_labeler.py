"""DeepCluster-v2: what the memory holds, what is clustered, what the targets are."""

import copy

import pytest
import torch
from torch.nn.functional import normalize

from mmcoke.clustering import DeepClusterV2Labeler, kmeans

A, K, D = 60, 5, 4


def features(seed=0, num=A):
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(num, D, generator=generator), dim=1)


def epoch(labeler, x_AD, number=0, batch=20):
    """One epoch over all samples in order; the targets of all."""
    labeler.set_epoch(number)
    parts = [labeler.step(x_AD[i], i) for i in torch.arange(len(x_AD)).split(batch)]
    labeler.end_epoch()
    return parts


def test_two_bundles_become_two_clusters_and_their_directions_the_classifier():
    """By hand: the means (0.8, 0) and (-0.8, 0), brought back to the sphere."""
    labeler = DeepClusterV2Labeler(4, 2, 2, seed=1)
    x = torch.tensor([[0.8, 0.6], [0.8, -0.6], [-0.8, 0.6], [-0.8, -0.6]])
    labeler.step(x, torch.tensor([0, 1, 2, 3]))
    labeler.end_epoch()
    label = labeler.step(x, torch.arange(4))
    assert label[0] == label[1] != label[2] == label[3]
    expected = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    torch.testing.assert_close(labeler.centers[label[[0, 2]]], expected)
    assert labeler.sizes().tolist() == [2, 2]


def test_targets_are_those_of_the_last_epoch_whatever_the_features_are_now():
    labeler = DeepClusterV2Labeler(A, K, D)
    epoch(labeler, features(0))
    expected = kmeans(features(0), K, spherical=True, num_iters=10, seed=0)
    for _ in range(2):
        labels = torch.cat([labeler.step(features(1)[i], i) for i in torch.arange(A).split(20)])
        assert torch.equal(labels, expected.label)
        assert torch.equal(labeler.centers, expected.centers)


def test_the_newest_feature_of_each_sample_is_clustered():
    """Not those before; of a sample that comes twice in a batch, the last row counts."""
    labeler = DeepClusterV2Labeler(A, K, D)
    labeler.step(features(0), torch.arange(A))
    newer = features(1)
    labeler.step(torch.cat([features(2)[:3], newer]), torch.cat([torch.arange(3), torch.arange(A)]))
    labeler.end_epoch()
    assert torch.equal(labeler.memory.x, newer)
    expected = kmeans(newer, K, spherical=True, num_iters=10, seed=0)
    assert torch.equal(labeler.step(newer, torch.arange(A)), expected.label)


def test_rows_of_one_sample_are_written_alike(monkeypatch):
    """A GPU writes them in any order; on CPU the last one stays anyway."""
    labeler, written = DeepClusterV2Labeler(A, K, D), []
    monkeypatch.setattr(labeler.memory, 'write', lambda *rows: written.append(rows))
    x = features(num=4)
    labeler.step(x, torch.tensor([7, 2, 7, 7]))
    ((idx, rows),) = written
    assert idx.tolist() == [7, 2, 7, 7]
    assert torch.equal(rows, x[[3, 1, 3, 3]])


def test_a_sample_that_never_came_has_no_label_and_is_taken_to_the_nearest_center():
    labeler = DeepClusterV2Labeler(A + 2, K, D)
    x = features()
    labeler.step(x, torch.arange(A))
    labeler.end_epoch()
    assert labeler[0].labels.label[A:].tolist() == [-1, -1]
    assert labeler.sizes().sum() == A
    near = labeler.centers[[3, 1]]
    assert labeler.step(near, torch.tensor([A, A + 1])).tolist() == [3, 1]
    expected = kmeans(x, K, spherical=True, num_iters=10, seed=0)
    assert torch.equal(labeler[0].labels.label[:A].long(), expected.label)


def test_several_clusterings_of_one_memory_start_from_other_samples():
    labeler = DeepClusterV2Labeler(A, [K, K, 7], D, seed=3)
    first = epoch(labeler, features())[0]
    assert [target.shape for target in first] == [(20,)] * 3
    assert [len(centers) for centers in labeler.centers] == [K, K, 7]
    assert [len(size) for size in labeler.sizes()] == [K, K, 7]
    for number, (head, k) in enumerate(zip(labeler, [K, K, 7], strict=True)):
        expected = kmeans(features(), k, spherical=True, num_iters=10, seed=3 + number)
        assert torch.equal(head.labels.label.long(), expected.label)
        assert torch.equal(head.centers, expected.centers)
    assert not torch.equal(labeler[0].labels.label, labeler[1].labels.label)
    epoch(labeler, features(), number=1)  # 3 clusterings have been before these
    expected = kmeans(features(), K, spherical=True, num_iters=10, seed=6)
    assert torch.equal(labeler[0].labels.label.long(), expected.label)


def test_only_the_own_rows_get_targets_but_all_go_to_the_memory():
    whole, part = (DeepClusterV2Labeler(A, [K, 3], D) for _ in range(2))
    for labeler in (whole, part):
        epoch(labeler, features())
    idx = torch.arange(A).flip(0)
    own = slice(10, 25)
    expected = [target[own] for target in whole.step(features(1), idx)]
    assert all(map(torch.equal, part.step(features(1), idx, own), expected))
    assert torch.equal(whole.memory.x, part.memory.x)


def test_cluster_takes_nothing_over_and_refit_takes_its_result():
    one, other = (DeepClusterV2Labeler(A, [K, 3], D) for _ in range(2))
    for labeler in (one, other):
        labeler.step(features(), torch.arange(A))
    before = copy.deepcopy(one.state_dict())
    clusters = one.cluster()
    assert all(torch.equal(before[name], value) for name, value in one.state_dict().items())
    one.refit(clusters)
    other.end_epoch()
    expected = other.state_dict()
    assert all(torch.equal(expected[name], value) for name, value in one.state_dict().items())


@pytest.mark.parametrize('stop', [(1, 0), (1, 2)])
def test_resume_continues_identically(stop):
    """At the end of an epoch, and in its middle."""

    def train(labeler, first, last):
        for number in range(first[0], last):
            labeler.set_epoch(number)
            batches = torch.arange(A).split(20)
            for i in batches[first[1] if number == first[0] else 0 :]:
                yield labeler, number, i

    whole, saved = DeepClusterV2Labeler(A, [K, 3], D), None
    for labeler, number, i in train(whole, (0, 0), 3):
        if (number, i[0] // 20) == stop:
            saved = copy.deepcopy(labeler.state_dict())
        labeler.step(features(number)[i], i)
        if i[-1] == A - 1:
            labeler.end_epoch()
    resumed = DeepClusterV2Labeler(A, [K, 3], D, seed=0)
    resumed.load_state_dict(saved)
    for labeler, number, i in train(resumed, stop, 3):
        labeler.step(features(number)[i], i)
        if i[-1] == A - 1:
            labeler.end_epoch()
    expected = whole.state_dict()
    assert expected.keys() == resumed.state_dict().keys()
    assert all(torch.equal(expected[name], x) for name, x in resumed.state_dict().items())


def test_the_memory_takes_four_bytes_per_number():
    memory = DeepClusterV2Labeler(A, [K, 3, 4], D).memory.x
    assert memory.numel() * memory.element_size() == 4 * A * D
    imagenet = 4 * 1_281_167 * 128
    assert imagenet == pytest.approx(656e6, rel=1e-3)


def test_no_step_looks_at_a_value(monkeypatch):
    """So a CUDA graph can hold it: on the device ``meta`` there are no values."""
    from contextlib import nullcontext

    monkeypatch.setattr(torch, 'autocast', lambda *args, **kwargs: nullcontext())
    labeler = DeepClusterV2Labeler(A, [K, 3], D).to('meta')
    idx = torch.empty(16, dtype=torch.int64, device='meta')
    targets = labeler.step(torch.empty(16, D, device='meta'), idx, slice(8))
    assert [(target.device.type, target.shape) for target in targets] == [('meta', (8,))] * 2


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(num_clusters=A + 1), f'num_clusters={A + 1} is more than the {A} samples'),
        (dict(num_clusters=[]), 'num_clusters is empty'),
        (dict(num_clusters=[3, 0]), 'num_clusters must be at least 1'),
        (dict(num_iters=0), 'num_iters must be at least 1'),
        (dict(dim=0), 'dim must be at least 1'),
        (dict(seed=-1), 'seed must be'),
    ],
)
def test_settings_out_of_their_range_are_named(change, message):
    settings = dict(num_samples=A, num_clusters=K, dim=D) | change
    with pytest.raises(ValueError, match=message) as caught:
        DeepClusterV2Labeler(**settings)
    assert '\n' not in str(caught.value)


def test_an_epoch_with_too_few_samples_or_without_finite_features_changes_nothing():
    labeler = DeepClusterV2Labeler(A, K, D)
    labeler.step(features(num=3), torch.arange(3))
    before = copy.deepcopy(labeler.state_dict())
    with pytest.raises(ValueError, match=r'num_clusters must be in 1 \.\.\. 3'):
        labeler.end_epoch()
    labeler.memory.x[:K] = float('nan')  # as on a GPU, where a step does not look
    with pytest.raises(ValueError, match='Lower the learning rate'):
        labeler.end_epoch()
    after = labeler.state_dict()
    assert all(torch.equal(before[n], after[n]) for n in before if not n.startswith('memory'))
    with pytest.raises(ValueError, match='NaN or infinite'):
        labeler.step(torch.full((2, D), float('nan')), torch.arange(2))
