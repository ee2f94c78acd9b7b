"""What to look at or label first: a few samples that cover all."""

import heapq
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from .duplicates import members_of, unit

MOST_MEMBERS = 1 << 16
"""Of a larger cluster so many, drawn at random, stand for all."""


def coverage_picks(
    x_AD: Tensor,
    label_A: Tensor,
    similarity_A: Tensor,
    num_clusters: int,
    num_picks: int,
    *,
    allowed_A: Tensor | None = None,
    chosen: Sequence[int] = (),
    seed: int = 0,
    progress: Callable[[Iterable], Iterable] = iter,
) -> list[int]:
    """Samples that cover all, the most useful first: the first n are a choice for every n.

    Clusters take turns by size (:func:`turns`): each is visited once, the largest first, then they
    share further picks in proportion to their sizes. Within a cluster the most typical sample comes
    first, then always the one that is farthest from those that were chosen (greedy k-center:
    Gonzalez, 1985).

    Args:
        x_AD: vectors, which may lie on the disk; one cluster at a time is read.
        label_A: cluster of each, int64 (A,).
        similarity_A: of each to the center of its cluster (A,).
        num_clusters: K.
        num_picks: how many are wanted; fewer if fewer are allowed.
        allowed_A: which may be picked, bool (A,); None for all.
        chosen: rows that were picked before: they count, and are not picked again.
        seed: of the members that stand for a large cluster.
        progress: wraps the list of clusters that are visited.

    Returns:
        Rows in the order of their ranks, without those of ``chosen``.
    """
    free = torch.ones_like(label_A, dtype=torch.bool) if allowed_A is None else allowed_A.clone()
    sizes = torch.bincount(label_A[free], minlength=num_clusters).tolist()
    chosen = torch.tensor(chosen, dtype=torch.int64)
    free[chosen] = False
    taken = torch.bincount(label_A[chosen], minlength=num_clusters).tolist()
    left = torch.bincount(label_A[free], minlength=num_clusters).tolist()
    order = turns(sizes, taken, left, num_picks)
    free_members = members_of(torch.where(free, label_A, num_clusters), num_clusters + 1)
    chosen_members = members_of(label_A[chosen], num_clusters)
    queues = {}
    for cluster in progress(sorted(set(order))):
        members = thinned(free_members[cluster], max(MOST_MEMBERS, order.count(cluster)), seed)
        far = far_first(
            unit(x_AD, members),
            similarity_A[members],
            order.count(cluster),
            unit(x_AD, chosen[chosen_members[cluster]]),
        )
        queues[cluster] = iter(members[far].tolist())
    return [next(queues[cluster]) for cluster in order]


def turns(
    sizes: Sequence[int], taken: Sequence[int], left: Sequence[int], num_picks: int
) -> list[int]:
    """Whose turn it is: always the cluster with the most samples per pick so far.

    A cluster without a pick comes before all that have one (Adams' method of sharing seats); of
    equals the first.

    Args:
        sizes: samples of each cluster.
        taken: its picks so far.
        left: samples of it that can still be picked.
        num_picks: how many turns there are, if enough are left.
    """
    left, taken = list(left), list(taken)

    def priority(cluster: int) -> tuple:
        picks = taken[cluster]
        return (bool(picks), -sizes[cluster] / max(picks, 1), cluster)

    queue = [priority(cluster) for cluster, count in enumerate(left) if count]
    heapq.heapify(queue)
    order = []
    while queue and len(order) < num_picks:
        cluster = queue[0][-1]
        order.append(cluster)
        taken[cluster] += 1
        left[cluster] -= 1
        if left[cluster]:
            heapq.heapreplace(queue, priority(cluster))
        else:
            heapq.heappop(queue)
    return order


def far_first(x_nD: Tensor, similarity_n: Tensor, num_picks: int, chosen_mD: Tensor) -> list[int]:
    """The most typical point, then always the farthest from all before; of equals the first.

    Args:
        x_nD: points of length 1 (n, D).
        similarity_n: to the center (n,).
        num_picks: at most n.
        chosen_mD: points before these; with any, the farthest from them is the first (m, D).
    """
    near = torch.full((len(x_nD),), -torch.inf)
    for point in chosen_mD:
        near = torch.maximum(near, x_nD @ point)
    rows = []
    for _ in range(num_picks):
        started = rows or len(chosen_mD)
        row = int(near.argmin() if started else similarity_n.argmax())
        rows.append(row)
        near = torch.maximum(near, x_nD @ x_nD[row])
        near[rows] = torch.inf
    return rows


def thinned(members: Tensor, most: int, seed: int) -> Tensor:
    """Members of a cluster; of too many some, drawn at random, in their order."""
    if len(members) <= most:
        return members
    drawn = np.random.default_rng(seed).choice(len(members), most, replace=False)
    return members[torch.from_numpy(np.sort(drawn))]
