"""Coarser levels, near duplicates and picks, against cases that were computed by hand."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from mmcoke.curation import (
    alike,
    coarser_levels,
    coverage_picks,
    duplicates,
    kept,
    near_duplicates,
    picks,
)
from mmcoke.curation.alike import most_alike, typical_rows
from mmcoke.curation.duplicates import Groups, cluster_pairs
from mmcoke.curation.hierarchy import level_sizes, weighted_kmeans
from mmcoke.curation.picks import far_first, turns


def on_circle(*degrees):
    angle = torch.tensor(degrees).double().deg2rad()
    return torch.stack([angle.cos(), angle.sin()], 1).float()


def cosine(degrees):
    return math.cos(math.radians(degrees))


def random_rows(num_rows, dim, seed=0):
    return torch.randn(num_rows, dim, generator=torch.Generator().manual_seed(seed))


# ---- hierarchy


def test_the_number_of_clusters_falls_by_one_factor_from_level_to_level():
    assert level_sizes(1000, 3) == [1000, 100, 10]
    assert level_sizes(9, 2) == [9, 3]
    assert level_sizes(7, 1) == [7]
    for num_clusters, num_levels in ((2, 2), (3, 3), (7, 20)):
        with pytest.raises(ValueError, match=f'at least --num-clusters {2**num_levels}'):
            level_sizes(num_clusters, num_levels)
        assert len(level_sizes(2**num_levels, num_levels)) == num_levels  # the remedy


def test_centers_that_are_near_have_one_parent_that_large_clusters_draw():
    centers = on_circle(0, 10, 90, 100)
    (level,) = coarser_levels(centers, torch.tensor([3, 1, 2, 2]), 2)
    a, b, c, d = level.parent.tolist()
    assert a == b != c == d
    assert level.size[a] == 4 and level.size[c] == 4
    # (3 (1, 0) + (cos 10, sin 10)) has the direction 2.49 degrees, the middle is at 5.
    expected = math.degrees(math.atan2(math.sin(math.radians(10)), 3 + cosine(10)))
    x, y = level.centers[a].tolist()
    assert math.degrees(math.atan2(y, x)) == pytest.approx(expected, abs=1e-3)
    x, y = level.centers[c].tolist()
    assert math.degrees(math.atan2(y, x)) == pytest.approx(95, abs=1e-3)


def test_each_level_partitions_the_next_finer_one_and_keeps_all_samples():
    centers, size = normalize(random_rows(64, 5), dim=1), torch.arange(64) + 1
    levels = coarser_levels(centers, size, 3, seed=1)
    assert [len(level.centers) for level in levels] == [16, 4]
    below = size
    for level in levels:
        assert level.parent.unique().tolist() == list(range(len(level.centers)))
        expected = [int(below[level.parent == k].sum()) for k in range(len(level.centers))]
        assert level.size.tolist() == expected
        below = level.size
    again = coarser_levels(centers, size, 3, seed=1)
    assert all(torch.equal(a.parent, b.parent) for a, b in zip(levels, again, strict=True))


def test_no_coarser_cluster_is_empty_even_where_all_centers_are_equal():
    label, centers = weighted_kmeans(torch.ones(6, 1), torch.ones(6), 3)
    assert label.unique().tolist() == [0, 1, 2]
    assert centers.isfinite().all()


# ---- duplicates


def test_duplicates_of_duplicates_are_one_group_and_clusters_next_to_each_other_are_searched():
    # Cluster 0: a chain of three, then one that is near one of cluster 1; cluster 1: two more.
    x = on_circle(0, 8, 16, 40, 44, 90, 95) * torch.tensor([1, 2, 3, 4, 5, 6, 7.0])[:, None]
    label, centers = torch.tensor([0, 0, 0, 0, 1, 1, 1]), on_circle(16, 80)
    found = near_duplicates(x, label, centers, cosine(9))
    assert found.tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert near_duplicates(x, label, centers, cosine(9), num_neighbors=0).tolist() == [
        *(0, 0, 0, -1, -1, 1, 1)
    ]
    assert near_duplicates(x, label, centers, cosine(3)).tolist() == [-1] * 7


def test_equal_vectors_are_duplicates_at_a_threshold_of_one():
    x = random_rows(50, 33)
    x = torch.cat([x, 3 * x[:5]])
    found = near_duplicates(x, torch.zeros(55, dtype=torch.int64), x[:1] / x[0].norm(), 1.0)
    assert found.tolist() == [*range(5), *[-1] * 45, *range(5)]


def groups_one_by_one(x, threshold):
    """As union-find over all pairs."""
    similar = normalize(x, dim=1) @ normalize(x, dim=1).T >= threshold
    number = list(range(len(x)))
    for i, j in similar.nonzero().tolist():
        old, new = max(number[i], number[j]), min(number[i], number[j])
        number = [new if n == old else n for n in number]
    alone = [number.count(n) == 1 for n in number]
    firsts = sorted({n for n, one in zip(number, alone, strict=True) if not one})
    return [-1 if one else firsts.index(n) for n, one in zip(number, alone, strict=True)]


class Disk:
    """Vectors that tell how many rows are read at once at most."""

    def __init__(self, x):
        self.x, self.most = x, 0

    def __getitem__(self, rows):
        self.most = max(self.most, len(rows))
        return self.x[rows]


@pytest.mark.parametrize('block', [3, 2048])
def test_blocks_of_any_size_find_what_all_pairs_find(block, monkeypatch):
    monkeypatch.setattr(duplicates, 'BLOCK', block)
    x, centers = random_rows(120, 3, seed=2), on_circle(0, 60, 120, 180, 240, 300)
    centers = torch.cat([centers, torch.zeros(6, 1)], 1)
    label = (normalize(x, dim=1) @ centers.T).argmax(1)
    disk = Disk(x.half())
    found = near_duplicates(disk, label, centers, 0.99, num_neighbors=5)
    expected = groups_one_by_one(x.half().float(), 0.99)
    assert found.tolist() == expected
    assert max(expected) > 5 and disk.most <= block


def test_many_equal_images_are_one_group_of_bounded_work():
    found = near_duplicates(
        torch.ones(2500, 2), torch.zeros(2500, dtype=torch.int64), on_circle(45), 0.9
    )
    assert found.eq(0).all()


def test_each_pair_of_clusters_is_searched_once():
    pairs = cluster_pairs(on_circle(0, 10, 90), 1)
    assert pairs == [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2)]


def test_groups_are_joined_in_any_order():
    pairs = np.random.default_rng(0).integers(200, size=(150, 2))
    orders = [pairs, pairs[::-1], pairs[:, ::-1]]
    numbers = []
    for order in orders:
        groups = Groups(200)
        for part in np.array_split(order, 7):
            groups.join(part[:, 0], part[:, 1])
        numbers.append(groups.numbers().tolist())
    assert numbers[0] == numbers[1] == numbers[2]


def test_the_best_of_a_group_is_kept():
    group = torch.tensor([-1, 0, 0, 0, 1, 1, 2, 2])
    pixels = torch.tensor([1, 5, 9, 9, 4, 4, 3, 3])
    num_bytes = torch.tensor([1, 9, 7, 8, 6, 6, 2, 2])
    similarity = torch.tensor([0.1, 0.9, 0.9, 0.1, 0.2, 0.3, 0.5, 0.5])
    keep = kept(group, pixels, num_bytes, similarity)
    # Most pixels, then bytes; similarity; of the last two, equal in all, the first.
    assert keep.tolist() == [True, False, False, True, False, True, True, False]


# ---- picks


def test_turns_go_to_each_cluster_once_and_then_by_size():
    # After the first round: 5, 3, 1 per pick; then 5/2 = 2.5 against 3; 2.5 against 3/2; ...
    assert turns([5, 3, 1], [0, 0, 0], [5, 3, 1], 9) == [0, 1, 2, 0, 1, 0, 0, 1, 0]
    assert turns([5, 3, 1], [0, 0, 0], [5, 3, 1], 2) == [0, 1]
    assert turns([5, 3, 0], [2, 0, 0], [3, 3, 0], 3) == [1, 1, 0]  # 5/2 = 2.5, then 3/1, 3/2
    assert turns([2, 2], [0, 0], [2, 2], 99) == [0, 1, 0, 1]


def test_far_points_follow_the_most_typical_one():
    x = on_circle(0, 10, 20, 50, 80)
    similarity = (x * on_circle(30)).sum(1)
    # 20 is the most typical; 80 is 60 away; 50 is 30 from both; 0 is 20 away, 10 then 10.
    assert far_first(x, similarity, 5, x[:0]) == [2, 4, 3, 0, 1]
    assert far_first(x, similarity, 2, on_circle(0)) == [4, 3]  # 40 from 0, 30 from 80


@pytest.mark.parametrize('num_picks', [1, 4, 17])
def test_the_first_picks_are_those_of_a_smaller_number(num_picks):
    x = random_rows(90, 4, seed=3)
    label, similarity = torch.arange(90) % 7, torch.rand(90)
    everything = coverage_picks(x, label, similarity, 7, 90)
    assert sorted(everything) == list(range(90))
    assert coverage_picks(x, label, similarity, 7, num_picks) == everything[:num_picks]


def test_what_is_not_allowed_is_not_picked_and_does_not_count():
    x, label = on_circle(0, 10, 20, 90, 91, 92, 93), torch.tensor([0, 0, 0, 1, 1, 1, 1])
    allowed = torch.tensor([True, True, True, True, False, False, False])
    found = coverage_picks(x, label, torch.ones(7), 2, 9, allowed_A=allowed)
    assert found == [0, 3, 2, 1]  # cluster 0 counts three, cluster 1 one
    assert coverage_picks(x, label, torch.ones(7), 2, 0) == []


def test_earlier_picks_stay_and_the_next_ones_are_far_from_them():
    x, label = on_circle(0, 10, 20, 60, 90, 91), torch.tensor([0, 0, 0, 0, 1, 1])
    found = coverage_picks(x, label, torch.ones(6), 2, 2, chosen=[0])
    assert found == [4, 3]  # cluster 1 has no pick yet; then what is farthest from row 0
    assert not {0} & set(coverage_picks(x, label, torch.ones(6), 2, 9, chosen=[0]))


def test_of_a_very_large_cluster_some_members_stand_for_all(monkeypatch):
    monkeypatch.setattr(picks, 'MOST_MEMBERS', 10)
    disk = Disk(random_rows(1000, 3))
    label = torch.zeros(1000, dtype=torch.int64)
    found = coverage_picks(disk, label, torch.rand(1000), 1, 4)
    assert len(set(found)) == 4 and disk.most <= 10
    assert len(set(coverage_picks(disk, label, torch.rand(1000), 1, 30))) == 30


# ---- pictures like this one


def test_the_most_typical_of_each_cluster_are_asked_for_then_the_second_ones():
    typical = [torch.tensor(rows, dtype=torch.int64) for rows in ([4], [7, 1, 2], [], [0, 3])]
    assert typical_rows(typical, 4) == [7, 0, 4, 1]
    assert typical_rows(typical, 99) == [7, 0, 4, 1, 3, 2]


@pytest.mark.parametrize('chunk_size', [2, 3, 100])
def test_the_nearest_by_angle_come_first_and_the_image_itself_does_not(chunk_size, monkeypatch):
    monkeypatch.setattr(alike, 'CHUNK_SIZE', chunk_size)
    x = on_circle(0, 90, 10, 350, 45, 180) * torch.tensor([[1.0], [5], [2], [1], [9], [1]])
    first, second = most_alike(x, [0, 4], 3)
    assert first.query == 0 and first.rows == [2, 3, 4]  # of equal ones the first
    assert first.similarity == pytest.approx([cosine(10), cosine(10), cosine(45)], abs=1e-6)
    assert second.rows == [2, 0, 1]
    assert second.similarity == pytest.approx([cosine(35), cosine(45), cosine(45)], abs=1e-6)


def test_of_few_images_all_others_are_alike():
    x = on_circle(0, 5)
    assert most_alike(x, [0], 8)[0].rows == [1]
    assert most_alike(x[:1], [0], 8) == [] and most_alike(x, [], 8) == []
