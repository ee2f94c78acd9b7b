"""Streaming k-means: bound, resume, processes, tables on disk, quality."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from children import start_processes
from scipy.optimize import linprog
from torch.nn.functional import normalize

from mmcoke.clustering import assign_stream, kmeans, memory_mapped, stream_kmeans
from mmcoke.clustering import streaming_kmeans as module
from mmcoke.clustering.min_size import Repair, rank_within, similarity_and_margin
from mmcoke.clustering.row_stream import RowStream


def made_up(num_samples=600, dim=8, num_points=10, *, noise=0.6, seed=0):
    """Samples around points of very different weights; of any length, float32."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(num_points, generator=generator) ** 3
    point = torch.multinomial(weights, num_samples, True, generator=generator)
    points = normalize(torch.randn(num_points, dim, generator=generator), dim=1)
    x = points[point] + noise / dim**0.5 * torch.randn(num_samples, dim, generator=generator)
    return x * (0.1 + 10 * torch.rand(num_samples, 1, generator=generator))


def assert_equal(one, other):
    for name, a, b in zip(one._fields, one, other, strict=True):
        same = torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
        assert same, name


def check(x, result, num_clusters, min_size):
    """What holds for every result."""
    size = torch.bincount(result.label, minlength=num_clusters)
    assert len(size) == num_clusters
    assert size.min() >= max(min_size, 1)
    torch.testing.assert_close(result.centers.norm(dim=1), torch.ones(num_clusters))
    assert (result.dual >= 0).all()
    similarity = normalize(x.float(), dim=1) @ result.centers.T
    own = similarity.gather(1, result.label[:, None])
    others = similarity.scatter(1, result.label[:, None], -torch.inf)
    torch.testing.assert_close(result.similarity, own[:, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(result.margin, own[:, 0] - others.amax(1), atol=1e-5, rtol=0)


# ---- by hand


def test_two_pairs_by_hand():
    """Pairs (1, 0), (0.6, 0.8) · 5 and their opposites: centers are (1.6, 0.8) / √3.2, ± ."""
    x = torch.tensor([[1.0, 0.0], [3.0, 4.0], [-1.0, 0.0], [-3.0, -4.0]])
    result = stream_kmeans(x, 2, min_size=2, seed=3)
    assert result.label[0] == result.label[1] != result.label[2] == result.label[3]
    center = torch.tensor([1.6, 0.8]) / 3.2**0.5
    expected = torch.stack([center, -center] if result.label[0] == 0 else [-center, center])
    torch.testing.assert_close(result.centers, expected)
    torch.testing.assert_close(result.similarity, torch.full((4,), 0.8**0.5))
    torch.testing.assert_close(result.margin, torch.full((4,), 2 * 0.8**0.5))
    assert result.num_moved == 0


def test_given_centers_and_duals_by_hand():
    x = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    label, similarity, margin = assign_stream(x, torch.eye(2))
    assert label.tolist() == [1, 1]
    torch.testing.assert_close(similarity, torch.tensor([0.8, 1.0]))
    torch.testing.assert_close(margin, torch.tensor([0.2, 1.0]))
    label, similarity, margin = assign_stream(x, torch.eye(2), torch.tensor([0.3, 0.0]))
    assert label.tolist() == [0, 1]
    torch.testing.assert_close(similarity, torch.tensor([0.6, 1.0]))
    torch.testing.assert_close(margin, torch.tensor([-0.2, 1.0]))


def repaired(similarity_AK, label, min_size):
    """Labels after a repair, from the similarities themselves: the centers are the axes."""
    label = torch.tensor(label)
    own, margin = similarity_and_margin(similarity_AK.clone(), label)
    num_clusters = similarity_AK.shape[1]
    repair = Repair(
        similarity_AK.__getitem__,
        torch.eye(num_clusters),
        *(label, own, margin),
        min_size=min_size,
        rows_per_chunk=2,
    )
    before = label.clone()
    assert repair.run() == (label != before).sum()
    expected = similarity_and_margin(similarity_AK.clone(), label)
    assert all(map(torch.equal, (own, margin), expected))
    assert repair.need_K.tolist() == [0] * num_clusters
    assert repair.spare_K.tolist() == (torch.bincount(label) - min_size).tolist()
    return label.tolist()


def test_what_a_cluster_does_not_need_goes_back_by_hand():
    """Cluster 1 has one too many; of the two that its dual won it gives the one that lost 0.4."""
    similarity = torch.tensor([[0.9, 0.5], [0.9, 0.8], [0.1, 0.9], [0.9, 0.1]])
    assert repaired(similarity, [1, 1, 1, 0], 2) == [0, 1, 1, 0]


def test_the_repair_moves_those_that_lose_least_by_hand():
    """Losses into cluster 1: 0.5, 0.1, 0.2, 0.4, and 0.3 from cluster 2, which gives none."""
    similarity = torch.tensor(
        [
            [0.9, 0.4, 0.0],
            [0.9, 0.8, 0.0],
            [0.9, 0.7, 0.0],
            [0.9, 0.5, 0.0],
            [0.0, 0.6, 0.9],
            [0.0, 0.0, 0.9],
        ]
    )
    assert repaired(similarity, [0, 0, 0, 0, 2, 2], 2) == [0, 1, 1, 0, 2, 2]


def test_a_donor_gives_no_more_than_it_has_above_the_bound():
    """Cluster 0 could give all three at 0.1 to 0.2, but keeps two; next is 0.6 from cluster 2."""
    similarity = torch.tensor([[0.9, 0.7, 0.0], [0.9, 0.8, 0.0], [0.9, 0.75, 0.0]] * 2)
    similarity[3:] = torch.tensor([[0.0, 0.2, 0.9], [0.0, 0.1, 0.9], [0.0, 0.3, 0.9]])
    assert repaired(similarity, [0, 0, 0, 2, 2, 2], 2) == [0, 1, 0, 2, 2, 1]


def test_rank_within_counts_those_before():
    assert rank_within(torch.tensor([5, 2, 5, 5, 2])).tolist() == [0, 0, 1, 2, 1]


# ---- what holds for every result


@pytest.mark.parametrize('seed', range(12))
def test_every_cluster_has_its_least_size(seed):
    draw = np.random.default_rng(seed)
    num_samples, num_clusters = int(draw.integers(1, 400)), int(draw.integers(1, 40))
    num_clusters = min(num_clusters, num_samples)
    x = made_up(num_samples, int(draw.integers(1, 20)), seed=seed)
    x = x[torch.from_numpy(draw.integers(0, num_samples, num_samples))]  # some rows several times
    for min_size in {0, 1, num_samples // num_clusters // 3, num_samples // num_clusters}:
        check(
            x, stream_kmeans(x, num_clusters, min_size=min_size, seed=seed), num_clusters, min_size
        )


@pytest.mark.parametrize('min_size', [0, 1, 7, 10])
def test_samples_that_are_all_the_same_fill_all_clusters(min_size):
    x = torch.ones(100, 3)
    result = stream_kmeans(x, 10, min_size=min_size)
    check(x, result, 10, min_size)
    torch.testing.assert_close(result.similarity, torch.ones(100))


def test_clusters_that_nothing_chose_begin_anew_at_far_samples():
    """Of 200 samples 196 are the same: most of the first centers are, and one of them wins."""
    x = torch.eye(5)[[0] * 90 + [1, 2] + [0] * 106 + [3, 4]]
    result = stream_kmeans(x, 5)
    assert result.num_moved == 0  # there is none to fill
    assert sorted(torch.bincount(result.label).tolist()) == [1, 1, 1, 1, 196]


@pytest.mark.parametrize('batch_size', [1, 200, 1000])
def test_a_batch_size_from_one_to_all_is_fine(batch_size):
    x = made_up(200, 6)
    result = stream_kmeans(x, 15, min_size=5, batch_size=batch_size, num_passes=2)
    check(x, result, 15, 5)


def test_one_cluster_and_as_many_clusters_as_samples():
    x = made_up(30, 5)
    one = stream_kmeans(x, 1)
    assert one.label.tolist() == [0] * 30
    assert (one.margin == torch.inf).all()
    many = stream_kmeans(x, 30, min_size=1)
    assert sorted(many.label.tolist()) == list(range(30))


def test_without_a_bound_each_sample_is_with_the_nearest_center():
    x = made_up()
    result = stream_kmeans(x, 20)
    assert result.num_moved == 0
    assert (result.margin >= 0).all()
    assert not result.dual.any()


def test_the_repair_is_near_the_best_assignment_of_these_sizes():
    x = made_up(300, 6)
    for min_size in (15, 30):
        result = stream_kmeans(x, 10, min_size=min_size)
        similarity = (normalize(x, dim=1) @ result.centers.T).double().numpy()
        best = linprog(
            -similarity.ravel(),
            A_eq=np.kron(np.eye(300), np.ones((1, 10))),
            b_eq=np.ones(300),
            A_ub=-np.kron(np.ones((1, 300)), np.eye(10)),
            b_ub=[-min_size] * 10,
        )
        assert result.similarity.sum() >= -best.fun * 0.99
        assert result.similarity.sum() <= -best.fun * (1 + 1e-5)


# ---- the same to the bit


@pytest.fixture()
def small_chunks(monkeypatch):
    """Several chunks in a batch, several spans of labels."""
    monkeypatch.setattr(module, 'MIN_ROWS', 16)
    monkeypatch.setattr(module, 'SAMPLES_PER_EPOCH', 20)  # two epochs in a pass
    monkeypatch.setattr(module, 'MAX_ROWS', 16)
    monkeypatch.setattr(module, 'CHUNKS_PER_SPAN', 8)


OPTIONS = dict(min_size=20, batch_size=150, seed=5)


def test_resumed_from_any_state_it_gives_the_same_bits(small_chunks):
    x, states = made_up(), []
    whole = stream_kmeans(x, 12, save=states.append, seconds_per_save=0, **OPTIONS)
    assert [state['step'] for state in states] == list(range(1, 3 * 4 + 5 + 1))
    for state in states:
        assert_equal(stream_kmeans(x, 12, state=state, **OPTIONS), whole)
    assert_equal(stream_kmeans(x, 12, **OPTIONS), whole)


def test_a_state_is_saved_when_its_time_has_come(monkeypatch):
    clock, states = iter([0, *(11 * n for n in range(1, 100))]), []
    monkeypatch.setattr(module.time, 'monotonic', lambda: next(clock))
    stream_kmeans(made_up(), 12, save=states.append, **OPTIONS)
    # Every 11 s a step; after a save the clock is read once more.
    assert [state['step'] for state in states] == [3, 6, 9, 12]


def test_a_state_of_another_clustering_is_refused():
    states = []
    stream_kmeans(made_up(), 12, save=states.append, seconds_per_save=0, **OPTIONS)
    for change in (dict(min_size=10), dict(seed=6), dict(num_passes=2), dict(batch_size=100)):
        with pytest.raises(ValueError, match=f'state has {next(iter(change))}'):
            stream_kmeans(made_up(), 12, state=states[3], **OPTIONS | change)
    with pytest.raises(ValueError, match='state has num_samples 600, but this clustering has 599'):
        stream_kmeans(made_up()[1:], 12, state=states[3], **OPTIONS)


def in_process(rank, world_size, folder):
    torch.set_num_threads(1)
    module.MIN_ROWS = module.MAX_ROWS = 16
    module.CHUNKS_PER_SPAN = 8
    module.SAMPLES_PER_EPOCH = 20
    if world_size > 1:
        store = f'file://{folder}/store{world_size}'
        dist.init_process_group('gloo', store, rank=rank, world_size=world_size)
    x = made_up()
    result = stream_kmeans(x, 12, **OPTIONS)
    found = (result, stream_kmeans(x, 100, seed=1), assign_stream(x, result.centers))
    torch.save(found, f'{folder}/world{world_size}_rank{rank}.pth')
    if world_size > 1:
        x[7] = x[590] = 0
        with pytest.raises(ValueError, match='row 7, 590'):  # on all of them
            stream_kmeans(x, 12)
        dist.destroy_process_group()


def test_many_processes_give_the_bits_of_one(small_chunks, tmp_path):
    in_process(0, 1, str(tmp_path))
    for world_size in (2, 3):
        start_processes(in_process, (world_size, str(tmp_path)), world_size)
    files = sorted(tmp_path.glob('world*.pth'))
    assert len(files) == 6
    one, *others = (torch.load(file, weights_only=False) for file in files)
    assert one[0].num_moved > 0  # the repair is divided, too
    for other in others:
        assert_equal(other[0], one[0])
        assert_equal(other[1], one[1])
        assert all(map(torch.equal, other[2], one[2]))


# ---- tables on disk


def saved(x, path):
    np.save(path, x.numpy())
    return memory_mapped(path)


def test_float16_on_disk_equals_the_same_values_in_memory(tmp_path):
    x = made_up().half()
    whole = stream_kmeans(x.float(), 12, **OPTIONS)
    assert_equal(stream_kmeans(saved(x, tmp_path / 'x.npy'), 12, **OPTIONS), whole)
    assert_equal(stream_kmeans(x, 12, **OPTIONS), whole)


def test_bfloat16_and_lengths_from_tiny_to_huge_are_the_same_directions():
    x = made_up().bfloat16()
    whole = stream_kmeans(x.float(), 12, **OPTIONS)
    assert_equal(stream_kmeans(x, 12, **OPTIONS), whole)
    factor = 2.0 ** torch.randint(-100, 100, (len(x), 1))
    assert_equal(stream_kmeans(x.float() * factor, 12, **OPTIONS), whole)


def anonymous_memory():
    """Bytes of this process that are no file's."""
    status = Path('/proc/self/status').read_text()
    return int(status.split('RssAnon:')[1].split()[0]) << 10


@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='reads /proc of Linux')
def test_a_memory_map_is_never_copied_whole(tmp_path):
    np.save(tmp_path / 'x.npy', np.ones((100_000, 256), np.float16))  # 51 MB
    with open(tmp_path / 'x.npy', 'r+b') as file:  # not all the same
        np.memmap(file, np.float16, 'r+', 128, (100_000, 256))[::7, :128] = -1
    x, peak = memory_mapped(tmp_path / 'x.npy'), []

    def watched(steps):
        for step in steps:
            peak.append(anonymous_memory())
            yield step

    stream_kmeans(x[:5000], 4, num_passes=1)  # buffers of the libraries
    before = anonymous_memory()
    stream_kmeans(x, 4, num_passes=1, batch_size=512, progress=watched)
    assert max(peak) - before < 30 << 20


def test_a_pass_has_every_row_once_in_an_order_of_its_own():
    x = torch.arange(1, 10_001).float()[:, None].repeat(1, 2)
    stream = RowStream(x, 300, 0, 'cpu')
    stream.block = 64  # as of a large table
    stream._unit = lambda x_nD: x_nD
    first, second = (
        torch.cat([stream.batch(number, i) for i in range(stream.num_batches)])[:, 0]
        for number in (0, 1)
    )
    assert torch.equal(first.sort()[0], x[:, 0])
    assert torch.equal(second.sort()[0], x[:, 0])
    assert not torch.equal(first, second)
    # A batch is taken from all over the table.
    assert first[:300].long().sub(1).div(1000, rounding_mode='floor').unique().numel() == 10


def test_first_centers_are_far_from_each_other():
    """Ten tight groups, one a hundred times as large: each gets a center, whatever the seed."""
    generator = torch.Generator().manual_seed(0)
    place = torch.tensor([0] * 1000 + [k for k in range(1, 10) for _ in range(10)])
    x = normalize(torch.eye(10)[place] + 0.01 * torch.randn(1090, 10, generator=generator), dim=1)
    for seed in range(5):
        rows = module.far_rows(x, 10, seed)
        assert place[rows].sort().values.tolist() == list(range(10))
        assert torch.equal(rows, module.far_rows(x, 10, seed))
    result = stream_kmeans(x, 10, seed=1)
    assert torch.bincount(result.label).sort().values.tolist() == [10] * 9 + [1000]


def test_rows_that_are_alike_are_chosen_once_each():
    x = torch.eye(2)[[0] * 6 + [1] * 6]
    rows = module.far_rows(x, 12, 0)
    assert rows.sort().values.tolist() == list(range(12))
    assert rows[0] // 6 != rows[1] // 6  # the other direction comes second


def test_sampled_rows_are_different_and_spread():
    stream = RowStream(torch.ones(1000, 2), 10, 0, 'cpu')
    for number in (1, 7, 999, 1000):
        rows = stream.spread_rows(number, 0)
        assert len(rows.unique()) == number
        assert rows.min() >= 0
        assert rows.max() < 1000
    assert torch.equal(stream.spread_rows(10, 0) // 100, torch.arange(10))


# ---- errors


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        (dict(num_clusters=0), 'num_clusters must be at least 1'),
        (dict(num_clusters=601), r'num_clusters must be in 1 ... 600.* is 601'),
        (dict(num_clusters=50, min_size=13), r'need 650 vectors.*min_size of at most 12'),
        (dict(num_clusters=5, min_size=-1), 'min_size must be at least 0'),
        (dict(num_clusters=5, min_size=0.5), 'min_size must be a whole number'),
        (dict(num_clusters=5, num_passes=0), 'num_passes must be at least 1'),
        (dict(num_clusters=5, batch_size=0), 'batch_size must be at least 1'),
        (dict(num_clusters=5, seed=-1), 'seed must be in'),
    ],
)
def test_settings_out_of_range_are_refused_in_a_line(options, said):
    with pytest.raises(ValueError, match=said) as error:
        stream_kmeans(made_up(), **options)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('value', [0, torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_rows_without_a_direction_are_refused_by_name(value, dtype):
    x = made_up().to(dtype)
    x[[3, 17, 100, 101, 102, 599]] = 1
    if value == 0:
        x[[3, 17, 100, 101, 102, 599]] = 0
    else:
        x[[3, 17, 100, 101, 102, 599], 2] = value
    said = '6 of 600 vectors are zero or not finite .*: row 3, 17, 100, 101, 102, …. Leave'
    for call in (lambda: stream_kmeans(x, 5), lambda: assign_stream(x, torch.eye(8))):
        with pytest.raises(ValueError, match=said) as error:
            call()
        assert '\n' not in str(error.value)


@pytest.mark.parametrize('x', [torch.ones(5), torch.ones(5, 0), torch.ones(5, 2).int()])
def test_what_is_no_table_of_vectors_is_refused(x):
    with pytest.raises(ValueError, match=r'The vectors must be \(A, D\)'):
        stream_kmeans(x, 2)


def test_centers_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r'centers must be \(K, 8\).*are \(3, 7\)'):
        assign_stream(made_up(), torch.ones(3, 7))


# ---- quality


def test_it_is_better_than_a_random_sample_and_as_good_as_lloyd():
    x = normalize(made_up(6000, 16, 80, noise=0.9), dim=1)
    ours = stream_kmeans(x, 50).similarity.mean()
    start = x[:: 6000 // 50][:50]
    sample = (x @ start.T).amax(1).mean()
    label, centers = kmeans(x, 50, spherical=True, num_iters=20)
    lloyd = (x @ centers.T)[torch.arange(6000), label].mean()
    assert ours > sample + 0.05
    assert ours > lloyd - 0.005
