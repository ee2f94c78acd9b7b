"""ODC's rules: by hand, by properties, and against mmselfsup 1.0 with its differences pinned."""

import math
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from children import start_processes
from torch.nn.functional import normalize

from mmcoke.clustering import FeatureMemory, KMeansResult, ODCLabeler, cluster_weight, kmeans
from mmcoke.clustering.kmeans import split_in_two
from mmcoke.clustering.odc import UNIT, as_units

A, K, D, N = 601, 20, 16, 32


def features(num_samples=A, dim=D, seed=0):
    return torch.randn(num_samples, dim, generator=torch.Generator().manual_seed(seed))


def stream(num_steps, seed=0, repeat=False):
    """Batches (features, indices) of samples that gather in few groups, and others later.

    So clusters run small and large ones are split. Features have any length.
    """
    generator = torch.Generator().manual_seed(seed)
    for step in range(num_steps):
        if step % 40 == 0:
            groups = torch.randn(6, D, generator=generator)
            group_A = torch.randint(6, (A,), generator=generator)
        idx = torch.randperm(A, generator=generator)[:N]
        if repeat:
            idx[N // 2 :] = idx[torch.randint(N // 2, (N - N // 2,), generator=generator)]
        x = groups[group_A[idx]] + 0.7 * torch.randn(N, D, generator=generator)
        yield x * torch.rand(N, 1, generator=generator).add(0.5), idx


def fitted(**options):
    labeler = ODCLabeler(A, K, D, **(dict(min_size=12) | options))
    labeler.refit(features())
    return labeler


def by_hand(x, label, num_clusters, **options):
    """A labeler whose memory and labels are given."""
    x, label = torch.tensor(x), torch.tensor(label)
    labeler = ODCLabeler(len(x), num_clusters, x.shape[1], **(dict(min_size=1) | options))
    labeler.refit(x, KMeansResult(label, x[:num_clusters], 0.0, 0))
    return labeler


def iterate(labeler, batches, first=0):
    """Steps with what comes between them; returns targets and numbers of small clusters."""
    targets, num_small = [], []
    for i, (x, idx) in enumerate(batches, start=first):
        targets.append(labeler.step(normalize(x, dim=1), idx))
        if (i + 1) % 10 == 0:
            labeler.update_centroids()
        num_small.append(labeler.split_small_clusters())
    return targets, num_small


def state(labeler):
    return {name: buffer.clone() for name, buffer in labeler.named_buffers()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


class TestByHand:
    @pytest.mark.parametrize(('momentum', 'new'), [(0.5, [1, 1]), (0.25, [3, 1]), (1.0, [0, 1])])
    def test_memory_moves_by_the_momentum_and_is_normalized(self, momentum, new):
        labeler = by_hand([[1.0, 0.0], [0.0, 1.0]], [0, 1], 2, momentum=momentum)
        labeler.step(torch.tensor([[0.0, 1.0]]), torch.tensor([0]))
        expected = torch.tensor(new) / math.hypot(*new)
        torch.testing.assert_close(labeler.memory.x, torch.stack([expected, torch.eye(2)[1]]))

    def test_a_feature_of_zeros_as_after_relu_leaves_the_memory(self):
        labeler = by_hand([[0.6, 0.8], [0.0, 1.0]], [0, 1], 2)
        labeler.step(torch.zeros(1, 2), torch.tensor([0]))
        torch.testing.assert_close(labeler.memory.x[0], torch.tensor([0.6, 0.8]))

    def test_centroids_are_means_of_the_normalized_memory_and_are_not_normalized(self):
        labeler = by_hand([[5.0, 0.0], [0.0, 3.0], [0.6, 0.8]], [0, 0, 1], 2)
        expected = torch.tensor([[0.5, 0.5], [0.6, 0.8]])
        torch.testing.assert_close(labeler.centroids, expected)

    def test_the_nearest_centroid_is_that_of_the_largest_inner_product(self):
        labeler = by_hand([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], [0, 1, 1], 2, momentum=1.0)
        labeler.centroids.copy_(torch.tensor([[0.8, 0.0], [0.0, 0.5]]))
        idx = torch.tensor([2])
        # Products 0.48 and 0.4; by angle it would be centroid 1.
        labeler.step(torch.tensor([[0.6, 0.8]]), idx)
        assert labeler.labels.read(idx).tolist() == [0]
        labeler.step(torch.tensor([[0.28, 0.96]]), idx)
        assert labeler.labels.read(idx).tolist() == [1]
        assert labeler.size.tolist() == [1, 2]

    def test_labels_use_the_memory_after_its_move(self):
        labeler = by_hand([[1.0, 0.0], [0.0, 1.0]], [0, 1], 2, momentum=0.25)
        labeler.step(torch.tensor([[0.0, 1.0]]), torch.tensor([0]))
        assert labeler.labels.label.tolist() == [0, 1]  # the feature alone is nearest to 1
        labeler.step(torch.tensor([[0.0, 1.0]]).repeat(2, 1), torch.tensor([0, 1]))
        labeler.step(torch.tensor([[0.0, 1.0]]).repeat(2, 1), torch.tensor([0, 1]))
        assert labeler.labels.label.tolist() == [1, 1]

    def test_centroids_move_only_when_asked(self):
        labeler = by_hand([[1.0, 0.0], [0.0, 1.0]], [0, 1], 2, momentum=1.0)
        before = labeler.centroids.clone()
        labeler.step(torch.tensor([[0.8, 0.6]]), torch.tensor([0]))
        assert torch.equal(labeler.centroids, before)
        labeler.update_centroids()
        torch.testing.assert_close(labeler.centroids, torch.tensor([[0.8, 0.6], [0.0, 1.0]]))

    def test_the_centroid_of_an_empty_cluster_stays(self):
        labeler = by_hand([[1.0, 0.0], [0.0, 1.0]], [0, 1], 2, momentum=1.0)
        labeler.step(torch.tensor([[0.6, 0.8]]), torch.tensor([0]))
        labeler.update_centroids()
        assert labeler.size.tolist() == [0, 2]
        expected = torch.tensor([[1.0, 0.0], [0.3, 0.9]])
        torch.testing.assert_close(labeler.centroids, expected)

    def test_a_small_cluster_is_dissolved_and_gets_half_of_the_largest(self):
        x = [[1.0, 0.0], [0.8, 0.6], [-1.0, 0.0], [-1.0, 0.0], [0.0, -1.0], [0.0, -1.0], [0.0, 1.0]]
        labeler = by_hand(x, [0, 0, 1, 1, 1, 1, 2], 3, min_size=2)
        assert labeler.split_small_clusters() == 1
        # Sample 6 is nearest to cluster 0, of centroid (0.9, 0.3). Cluster 1 is the largest; its
        # halves are samples 2, 3 and 4, 5.
        label = labeler.labels.label.tolist()
        assert label[:2] == [0, 0]
        assert label[6] == 0
        assert {tuple(label[2:4]), tuple(label[4:6])} == {(1, 1), (2, 2)}
        assert labeler.size.tolist() == [3, 2, 2]
        # The centroids of the halves follow at once, that of cluster 0 at the next update.
        expected = torch.tensor([[0.9, 0.3], [-1.0, 0.0], [0.0, -1.0]])
        torch.testing.assert_close(labeler.centroids[[0, label[2], label[4]]], expected)
        labeler.update_centroids()
        torch.testing.assert_close(labeler.centroids[0], torch.tensor([0.6, 1.6 / 3]))

    def test_members_of_small_clusters_go_to_none_of_them(self):
        x = [[1.0, 0.0]] * 4 + [[0.0, 1.0], [0.1, 1.0]]
        labeler = by_hand(x, [0, 0, 0, 0, 1, 2], 3, min_size=2)
        assert labeler.split_small_clusters() == 2
        # All six in cluster 0; the first small cluster gets 4, 5, the second a half of the rest.
        assert sorted(labeler.size.tolist()) == [2, 2, 2]
        label = labeler.labels.label.tolist()
        assert label[4] == label[5]
        assert label[4] not in label[:4]

    def test_the_next_split_takes_the_cluster_that_is_the_largest_by_then(self):
        x = torch.cat([torch.eye(6)[[0] * 5 + [1] * 4], torch.eye(6)[[2] * 6 + [3]]])
        labeler = by_hand(x.tolist(), [0] * 9 + [1] * 6 + [2], 4, min_size=2)
        labeler.split_small_clusters()
        # Sizes 9 and 6 (or 10: sample 15 is equally far from both) and nothing: 0 splits into 5
        # and 4 (or 5, 4 and 15), then 1 into 3 and 3, as it is larger than each half.
        sizes = torch.bincount(labeler.labels.label[9:15].int()).tolist()
        assert sorted(size for size in sizes if size) == [3, 3]

    def test_clusters_of_min_size_are_left_alone(self):
        labeler = by_hand([[1.0, 0.0]] * 3 + [[0.0, 1.0]] * 2, [0, 0, 0, 1, 1], 2, min_size=2)
        before = state(labeler)
        assert labeler.split_small_clusters() == 0
        assert_same(state(labeler), before)

    def test_sums_are_kept_in_units_of_two_to_the_minus_32(self):
        assert as_units(torch.tensor([1.0, -0.5, 0.75 * UNIT])).tolist() == [2**32, -(2**31), 1]
        labeler = by_hand([[1.0, 0.0], [0.6, 0.8]], [0, 0], 2)
        total = labeler.total[0].double() * UNIT
        torch.testing.assert_close(total.float(), torch.tensor([1.6, 0.8]))

    def test_weights_follow_the_sizes_to_the_power(self):
        x = [[1.0, 0.0]] * 4 + [[0.0, 1.0]]
        labeler = by_hand(x, [0, 0, 0, 0, 1], 3, reweight_pow=0.5)
        assert labeler.cluster_weight().tolist() == [0.5, 1.0, 0.0]

    def test_changed_is_the_share_of_new_labels_in_the_epoch(self):
        labeler = by_hand([[1.0, 0.0], [0.0, 1.0]], [0, 1], 2, momentum=1.0)
        labeler.set_epoch(0)
        labeler.step(torch.tensor([[0.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 1]))
        assert labeler.changed().item() == 0.5
        labeler.step(torch.tensor([[0.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 1]))
        assert labeler.changed().item() == 0.25
        labeler.set_epoch(1)
        assert labeler.changed().item() == 0


class TestProperties:
    @pytest.mark.parametrize('repeat', [False, True])
    def test_sums_that_follow_the_stream_are_those_computed_from_scratch_to_the_bit(self, repeat):
        labeler = fitted()
        _, num_small = iterate(labeler, stream(400, repeat=repeat))
        assert sum(n > 0 for n in num_small) > 20
        followed = state(labeler)
        labeler.recompute()
        assert_same(state(labeler), followed)
        assert torch.equal(labeler.size, labeler.labels.sizes())
        assert labeler.size.sum() == A

    def test_centroids_are_the_means_of_their_members(self):
        labeler = fitted()
        iterate(labeler, stream(100))
        labeler.update_centroids()
        for k in range(K):
            mean = labeler.memory.x[labeler.labels.label == k].mean(0)
            torch.testing.assert_close(labeler.centroids[k], mean, atol=1e-6, rtol=0)

    def test_the_memory_stays_on_the_unit_sphere(self):
        labeler = fitted()
        iterate(labeler, stream(100))
        torch.testing.assert_close(labeler.memory.x.norm(dim=1), torch.ones(A))

    def test_no_cluster_is_empty_after_small_ones_were_split(self):
        labeler = fitted()
        for i, (x, idx) in enumerate(stream(400)):
            labeler.step(normalize(x, dim=1), idx)
            if i % 10 == 9:
                labeler.update_centroids()
            labeler.split_small_clusters()
            assert labeler.size.min() >= 1
            assert torch.equal(labeler.size, labeler.labels.sizes())

    def test_a_step_does_not_depend_on_the_order_of_the_batch(self):
        one, other = fitted(), fitted()
        generator = torch.Generator().manual_seed(0)
        for x, idx in stream(20):
            order = torch.randperm(N, generator=generator)
            label = one.step(normalize(x, dim=1), idx)
            assert torch.equal(other.step(normalize(x[order], dim=1), idx[order]), label[order])
        assert_same(state(one), state(other))

    def test_the_target_is_the_label_before_the_step(self):
        labeler, num_changed = fitted(), 0
        for x, idx in stream(20):
            before = labeler.labels.read(idx)
            assert torch.equal(labeler.step(normalize(x, dim=1), idx), before)
            num_changed += (labeler.labels.read(idx) != before).sum().item()
        assert num_changed > 0

    def test_of_a_repeated_sample_the_last_row_counts(self):
        one, other = fitted(), fitted()
        x, idx = normalize(features(4, seed=5), dim=1), torch.tensor([7, 2, 7, 7])
        target = one.step(x, idx)
        assert target[0] == target[2] == target[3]
        other.step(x[[1, 3]], idx[[1, 3]])
        one.set_epoch(1), other.set_epoch(1)  # forgets the shares that changed, of 4 and of 2 rows
        assert_same(state(one), state(other))

    def test_rows_of_a_repeated_sample_are_equal_when_they_are_written(self, monkeypatch):
        """On CPU an indexed write happens to keep the last row; elsewhere any could win."""
        labeler, written = fitted(), []
        monkeypatch.setattr(labeler.memory, 'write', lambda *args: written.append(args))
        labeler.step(normalize(features(4, seed=5), dim=1), torch.tensor([7, 2, 7, 7]))
        ((_, x),) = written
        assert torch.equal(x[0], x[3])
        assert torch.equal(x[2], x[3])
        assert not torch.equal(x[1], x[3])

    def test_refit_fills_memory_and_labels_and_no_cluster_is_empty(self):
        labeler = fitted()
        torch.testing.assert_close(labeler.memory.x, normalize(features(), dim=1))
        assert labeler.labels.label.min() == 0
        assert labeler.size.min() >= 1
        assert torch.equal(labeler.sizes(), labeler.labels.sizes())
        similarity = labeler.memory.x @ labeler.centroids.T
        own = similarity.gather(1, labeler.labels.label[:, None].long())
        assert own.mean() > similarity.mean() + 0.2

    @pytest.mark.parametrize('options', [{}, dict(seed=4), dict(num_iters=1)])
    def test_refit_labels_by_k_means_of_the_normalized_features(self, options):
        labeler = fitted(**options)
        expected = kmeans(normalize(features(), dim=1), K, **options)
        assert torch.equal(labeler.labels.label.long(), expected.label)

    def test_progress_sees_each_iteration_of_k_means(self):
        seen = []
        fitted(num_iters=3).cluster(features(), lambda it: (seen.append(i) or i for i in it))
        assert seen == [0, 1, 2]

    def test_refit_with_the_clusters_of_another_process_gives_the_same(self):
        one, other = fitted(), ODCLabeler(A, K, D, min_size=12)
        other.refit(features(), other.cluster(features()))
        assert_same(state(one), state(other))

    def test_cluster_takes_nothing_over(self):
        labeler = fitted()
        before = state(labeler)
        labeler.cluster(features(seed=1))
        assert_same(state(labeler), before)

    @pytest.mark.parametrize('split', [7, 60, 113])
    def test_resume_continues_bit_for_bit(self, split):
        batches = list(stream(120))
        whole, first = fitted(), fitted()
        expected, _ = iterate(whole, batches)
        targets, _ = iterate(first, batches[:split])
        resumed = ODCLabeler(A, K, D, min_size=12, seed=9)
        resumed.load_state_dict(first.state_dict())
        more, _ = iterate(resumed, batches[split:], split)
        assert all(torch.equal(a, b) for a, b in zip(targets + more, expected, strict=True))
        one, other = whole.state_dict(), resumed.state_dict()
        assert 'memory.x' in one
        assert_same(one, other)

    def test_end_of_epoch_repairs_sums(self):
        labeler = fitted()
        before = state(labeler)
        labeler.total += 1
        labeler.size += 1
        labeler.end_epoch()
        assert_same(state(labeler), before)

    def test_num_small_counts_the_replaced_clusters_of_the_epoch(self):
        labeler = fitted()
        labeler.set_epoch(0)
        _, num_small = iterate(labeler, stream(100))
        assert labeler.num_small == sum(num_small) > 0
        labeler.set_epoch(1)
        assert labeler.num_small == 0

    @pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
    def test_clustering_stays_in_float32_under_autocast(self, dtype):
        plain, mixed = fitted(), fitted()
        expected, _ = iterate(plain, stream(100))
        with torch.autocast('cpu', dtype):
            targets, _ = iterate(mixed, stream(100))
            mixed.recompute()
        assert all(torch.equal(a, b) for a, b in zip(targets, expected, strict=True))
        assert_same(state(mixed), state(plain))


class TestRefusals:
    def test_a_step_before_the_first_clustering(self):
        labeler = ODCLabeler(A, K, D)
        with pytest.raises(ValueError, match=r'call refit\(x_AD\).*hook'):
            labeler.step(features(4), torch.arange(4))

    @pytest.mark.parametrize(
        ('arguments', 'options', 'message'),
        [
            ((10, 11, 4), {}, r'num_clusters=11 .* 10 samples'),
            ((10, 0, 4), {}, 'num_clusters must be at least 1, but is 0'),
            ((100, 6, 4), {}, r'6 clusters of min_size=20 need more than the 100 samples'),
            ((100, 5, 4), dict(momentum=0.0), r'momentum must be in \(0, 1\], but is 0.0'),
            ((100, 5, 4), dict(momentum=1.1), 'but is 1.1'),
            ((100, 5, 4), dict(momentum=math.nan), 'but is nan'),
        ],
    )
    def test_arguments_out_of_their_range(self, arguments, options, message):
        with pytest.raises(ValueError, match=message):
            ODCLabeler(*arguments, **options)


class TestMemory:
    def test_a_pinned_memory_stays_where_the_module_does_not(self):
        labeler = fitted(memory_device='cpu')
        labeler.to('meta')
        assert labeler.labels.label.device.type == labeler.centroids.device.type == 'meta'
        assert labeler.memory.x.device.type == 'cpu'

    @pytest.mark.parametrize(('device', 'dtype'), [('cpu', torch.float32), (None, torch.float64)])
    def test_a_pinned_memory_keeps_its_precision_too(self, device, dtype):
        labeler = fitted(memory_device=device).to(torch.float64)
        assert labeler.centroids.dtype == torch.float64
        assert labeler.memory.x.dtype == dtype

    def test_where_the_memory_stays_does_not_change_the_result(self):
        one, other = fitted(), fitted(memory_device='cpu')
        iterate(one, stream(50))
        iterate(other, stream(50))
        assert_same(state(one), state(other))

    @pytest.mark.parametrize(('num_samples', 'world_size'), [(12, 3), (13, 3), (5, 4), (2, 4)])
    def test_each_row_is_on_one_process(self, num_samples, world_size, monkeypatch):
        monkeypatch.setattr(dist, 'is_initialized', lambda: True)
        monkeypatch.setattr(dist, 'get_world_size', lambda: world_size)
        rows = []
        for rank in range(world_size):
            monkeypatch.setattr(dist, 'get_rank', lambda rank=rank: rank)
            memory = FeatureMemory(num_samples, 2, sharded=True)
            rows += list(range(num_samples))[memory.own]
            assert len(memory.x) <= math.ceil(num_samples / world_size)
        assert rows == list(range(num_samples))

    def test_without_a_process_group_a_sharded_memory_is_whole(self):
        labeler = fitted(shard_memory=True)
        assert len(labeler.memory.x) == A
        assert 'memory.x' in labeler.state_dict()


def run_sharded(rank, world_size, folder):
    """A stream with splits; notes what is the same everywhere, and the own rows."""
    if world_size > 1:
        store = f'file://{folder}/store'
        dist.init_process_group('gloo', store, rank=rank, world_size=world_size)
    labeler = fitted(shard_memory=True)
    assert labeler.keeps_features == (world_size == 1)
    whole = state(labeler)
    labeler.num_fits.zero_()
    labeler.refit(features()[labeler.memory.own], labeler.cluster(features()))
    assert_same(state(labeler), whole)  # the own rows will do
    targets, num_small = iterate(labeler, stream(150, repeat=True))
    followed = state(labeler)
    labeler.end_epoch()
    assert torch.equal(labeler.total, followed['total'])
    kept = state(labeler)
    memory, own = kept.pop('memory.x'), labeler.memory.own
    assert ('memory.x' in labeler.state_dict()) == (world_size == 1)
    some = torch.tensor([0, A - 1, 1, A // 2, A // 2 - 1, 0])
    seen = dict(state=kept, targets=targets, num_small=num_small, read=labeler.memory.read(some))
    torch.save((seen, memory, own), f'{folder}/world{world_size}_rank{rank}.pth')
    if world_size > 1:
        dist.destroy_process_group()


def test_a_memory_spread_over_two_processes_gives_the_same_to_the_bit(tmp_path):
    """Each process holds half of the rows, and both have the same labels, sums and centroids."""
    run_sharded(0, 1, str(tmp_path))
    start_processes(run_sharded, (2, str(tmp_path)), 2)
    load = lambda name: torch.load(tmp_path / name, weights_only=False)  # noqa: E731
    single, memory, _ = load('world1_rank0.pth')
    assert sum(single['num_small']) > 0
    for rank, num_rows in enumerate((301, 300)):
        seen, rows, own = load(f'world2_rank{rank}.pth')
        assert_same(seen['state'], single['state'])
        assert all(map(torch.equal, seen['targets'], single['targets']))
        assert seen['num_small'] == single['num_small']
        assert torch.equal(seen['read'], single['read'])
        assert len(rows) == num_rows
        assert torch.equal(rows, memory[own])


class OurTwoMeans:
    """Our 2-means in the place of scikit-learn's."""

    def fit(self, x):
        return SimpleNamespace(labels_=split_in_two(x).long().numpy())


@pytest.fixture
def mmselfsup_memory(tmp_path, monkeypatch):
    """What makes mmselfsup's memory, which wants a GPU and a process group, on the CPU alone.

    With our 2-means in it, unless told otherwise: where 2-means starts and which of the two halves
    moves is arbitrary, and ours is not scikit-learn's; see
    ``test_two_means_starts_elsewhere_but_finds_the_same_groups``.
    """
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        from mmselfsup.models.memories.odc_memory import ODCMemory
    monkeypatch.setattr(torch.Tensor, 'cuda', lambda self: self)
    dist.init_process_group('gloo', f'file://{tmp_path}/store', rank=0, world_size=1)

    def make(labeler, two_means=None):
        """With the memory, the labels and the options of one of ours."""
        (length, dim), num_clusters = labeler.memory.x.shape, labeler.num_clusters
        memory = ODCMemory(length, dim, labeler.momentum, num_clusters, labeler.min_size)
        memory.kmeans = two_means or OurTwoMeans()
        memory.init_memory(labeler.memory.x.numpy().copy(), labeler.labels.label.long().numpy())
        return memory

    yield make
    dist.destroy_process_group()


def mmselfsup_weight(labels, num_clusters):
    """The loss weights of mmselfsup's hook."""
    from mmselfsup.engine.hooks import ODCHook

    model = SimpleNamespace(
        memory_bank=SimpleNamespace(label_bank=labels, num_classes=num_clusters),
        loss_weight=torch.zeros(num_clusters),
        head=SimpleNamespace(loss=SimpleNamespace()),
    )
    hook = ODCHook(10, 1, 50, True, 0.5)
    hook.set_reweight(SimpleNamespace(model=SimpleNamespace(module=model)))
    return model.head.loss.class_weight


class TestAgainstMMSelfSup:
    @pytest.mark.parametrize(('seed', 'momentum'), [(0, 0.5), (1, 0.5), (2, 0.8)])
    def test_a_stream_gives_the_same_labels_memory_centroids_and_weights(
        self, mmselfsup_memory, seed, momentum
    ):
        ours = fitted(momentum=momentum)
        theirs = mmselfsup_memory(ours)
        num_small, num_dissolved = [], 0

        def compare():
            assert torch.equal(ours.labels.label.long(), theirs.label_bank)
            torch.testing.assert_close(ours.centroids, theirs.centroids, atol=1e-5, rtol=0)
            torch.testing.assert_close(ours.memory.x, theirs.feature_bank, atol=1e-6, rtol=0)

        compare()
        for i, (x, idx) in enumerate(stream(200, seed)):
            ours.set_epoch(i)
            target = theirs.label_bank[idx].clone()
            assert torch.equal(ours.step(normalize(x, dim=1), idx), target)
            changed = theirs.update_samples_memory(idx, x)
            torch.testing.assert_close(ours.changed(), changed)
            compare()
            if (i + 1) % 10 == 0:
                ours.update_centroids()
                theirs.update_centroids_memory()
                compare()
            num_dissolved += int(ours.size[ours.size < ours.min_size].sum())
            num_small.append(ours.split_small_clusters())
            theirs.deal_with_small_clusters()
            compare()
            weight = mmselfsup_weight(theirs.label_bank, K)
            torch.testing.assert_close(ours.cluster_weight() / ours.cluster_weight().sum(), weight)
        assert sum(n > 0 for n in num_small) >= 10
        assert max(num_small) >= 3
        assert num_dissolved >= 20

    def test_there_features_are_normalized_inside_and_here_by_the_caller(self, mmselfsup_memory):
        """Here the loss needs them normalized or not as it likes; the labeler sees unit vectors."""
        ours, normalized = fitted(), fitted()
        theirs = mmselfsup_memory(ours)
        x, idx = features(N, seed=3) * 5, torch.arange(N)
        theirs.update_samples_memory(idx, x)
        normalized.step(normalize(x, dim=1), idx)
        ours.step(x, idx)
        torch.testing.assert_close(normalized.memory.x, theirs.feature_bank)
        assert (ours.memory.x - theirs.feature_bank).abs().max() > 0.05

    def test_a_feature_of_zeros_leaves_the_memory_there_too(self, mmselfsup_memory):
        ours = fitted()
        theirs = mmselfsup_memory(ours)
        before = theirs.feature_bank.clone()
        theirs.update_samples_memory(torch.tensor([5]), torch.zeros(1, D))
        torch.testing.assert_close(theirs.feature_bank, before)

    def test_an_empty_cluster_gets_no_weight_here_and_nearly_all_there(self):
        """There (1 / (0 + 1e-10)) ** 0.5 = 100,000; the loss of the others vanishes beside it."""
        sizes = torch.tensor([0, 4, 9, 16])
        labels = torch.arange(4).repeat_interleave(sizes)
        theirs = mmselfsup_weight(labels, 4)
        assert theirs[0] > 0.9999
        assert cluster_weight(sizes, 0.5)[0] == 0
        torch.testing.assert_close(cluster_weight(sizes, 0.5)[1:], theirs[1:] / theirs[1] / 2)

    def test_of_a_repeated_sample_the_row_that_counts_is_defined_here_only(self, mmselfsup_memory):
        """There two indexed writes choose a row each, in no defined order: on a GPU the label could
        be that of another row than the feature. On the CPU the last one happens to win, as here by
        rule. The share that changed differs: there each row counts by its own label, here by the
        one that its sample gets.
        """
        ours = by_hand([[1.0, 0.0], [0.0, 1.0]], [0, 1], 2, momentum=1.0)
        theirs = mmselfsup_memory(ours)
        x, idx = torch.eye(2)[[1, 0, 0]], torch.tensor([0, 1, 0])
        ours.step(x, idx)
        changed = theirs.update_samples_memory(idx, x)
        assert ours.labels.label.tolist() == theirs.label_bank.tolist() == [0, 0]
        torch.testing.assert_close(ours.memory.x, theirs.feature_bank)
        assert changed.item() == pytest.approx(2 / 3)
        assert ours.changed().item() == pytest.approx(1 / 3)

    def test_two_means_starts_elsewhere_but_finds_the_same_groups(self, mmselfsup_memory):
        """There k-means++ from a fixed seed of scikit-learn; here two far samples, by faiss.

        Which half keeps the number is as arbitrary; labels there do not depend on it either.
        """
        from mmselfsup.models.memories.odc_memory import KMeans

        x = torch.cat([torch.eye(D)[0] + 0.2 * features(15), torch.eye(D)[1] + 0.2 * features(9)])
        x = torch.cat([x, torch.eye(D)[[2] * 6]])
        ours = by_hand(x.tolist(), [0] * 24 + [1] * 5 + [2], 3, min_size=2)
        theirs = mmselfsup_memory(ours, KMeans(n_clusters=2, random_state=0, max_iter=20))
        ours.split_small_clusters()
        theirs.deal_with_small_clusters()
        groups = lambda label: {frozenset(np.flatnonzero(label == k)) for k in range(3)}  # noqa: E731
        expected = {frozenset(range(15)), frozenset(range(15, 24)), frozenset(range(24, 30))}
        assert groups(ours.labels.label.numpy()) == groups(theirs.label_bank.numpy()) == expected

    def test_equal_samples_are_halved_in_order_here_and_at_random_there(self, mmselfsup_memory):
        """There by the global generator of numpy, which nobody seeds for it."""
        results = []
        for seed in range(2):
            ours = by_hand([[1.0, 0.0]] * 20 + [[0.0, 1.0]] * 3, [0] * 20 + [1] * 2 + [2], 3,
                           min_size=2)  # fmt: skip
            theirs = mmselfsup_memory(ours)
            theirs.kmeans = SimpleNamespace(fit=lambda x: SimpleNamespace(labels_=np.zeros(len(x))))
            np.random.seed(seed)
            ours.split_small_clusters()
            theirs.deal_with_small_clusters()
            assert ours.labels.label.tolist() == [0] * 10 + [2] * 10 + [1] * 3
            assert torch.bincount(theirs.label_bank).tolist() == [10, 3, 10]
            results.append(theirs.label_bank)
        assert not torch.equal(*results)

    def test_more_min_size_than_samples_is_refused_here_and_fails_late_there(
        self, mmselfsup_memory
    ):
        """There every iteration dissolves and splits, or, with all clusters small, fails."""
        ours = by_hand([[1.0, 0.0], [0.0, 1.0]] * 2, [0, 1] * 2, 2)
        theirs = mmselfsup_memory(ours)
        theirs.min_cluster = 3
        with pytest.raises((IndexError, RuntimeError)):
            theirs.deal_with_small_clusters()
        with pytest.raises(ValueError, match='min_size=3 need more than the 4 samples'):
            ODCLabeler(4, 2, 2, min_size=3)


def test_what_does_not_fit_is_refused_and_changes_nothing():
    labeler = fitted()
    before = {name: value.clone() for name, value in labeler.state_dict().items()}
    x, idx = normalize(features(4), dim=1), torch.arange(4)
    bad = x.clone()
    bad[2, 3] = math.nan
    for arguments, message in (
        ((bad, idx), 'NaN or infinite'),
        ((x, idx - 1), 'sample_idx runs from -1'),
        ((x, idx + A - 3), f'has {A} samples'),
        ((x[:, 1:], idx), r'features \(N, 16\)'),
        ((x, idx[:3]), r'indices \(N,\)'),
    ):
        with pytest.raises(ValueError, match=message):
            labeler.step(*arguments)
    for name, value in labeler.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_features_of_any_size_fill_the_memory_alike():
    x = features(A) - 0.3
    plain, other = (ODCLabeler(A, K, D, min_size=2) for _ in range(2))
    plain.refit(x)
    other.refit(x * 2.0**-100)
    assert_same(state(other), state(plain))


@pytest.mark.parametrize('rows', [1, A - 1])
def test_features_of_other_samples_are_not_spread_over_the_memory(rows):
    labeler, x = ODCLabeler(A, K, D, min_size=2), features(A)
    clusters = labeler.cluster(x)
    before = {name: value.clone() for name, value in labeler.state_dict().items()}
    with pytest.raises(ValueError, match=rf'memory takes features \({A}, {D}\), but got \({rows},'):
        labeler.refit(x[:rows], clusters)
    assert_same(labeler.state_dict(), before)
