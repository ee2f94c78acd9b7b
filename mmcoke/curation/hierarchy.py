"""Coarser levels of a clustering: clusters of its centers."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

CHUNK_SIZE = 1 << 13
"""Rows that are compared with all centers at once."""


class Level(NamedTuple):
    """One level of a hierarchy.

    Attributes:
        parent: of each cluster of the next finer level, its cluster of this one, int64.
        size: samples in each cluster of this level, int64.
        centers: float32, of length 1.
    """

    parent: Tensor
    size: Tensor
    centers: Tensor


def coarser_levels(
    centers_KD: Tensor, size_K: Tensor, num_levels: int, *, seed: int = 0
) -> list[Level]:
    """Cluster the centers of the finest level, then their centers, and so on.

    Every cluster has one parent. The number of clusters falls by the same factor from level to
    level (:func:`level_sizes`).

    Args:
        centers_KD: of the finest level, of length 1 (K, D).
        size_K: samples in its clusters; a center counts as often as it has samples (K,).
        num_levels: of the hierarchy, the finest one included.
        seed: of the first centers of each level.

    Returns:
        ``num_levels - 1`` levels, the second-finest first.

    Raises:
        ValueError: if there are not enough clusters for so many levels.
    """
    levels, centers, size = [], centers_KD, size_K
    for num_clusters in level_sizes(len(centers_KD), num_levels)[1:]:
        parent, centers = weighted_kmeans(centers, size, num_clusters, seed=seed)
        size = torch.zeros(num_clusters, dtype=torch.int64).index_add_(0, parent, size)
        levels.append(Level(parent, size, centers))
    return levels


def level_sizes(num_clusters: int, num_levels: int) -> list[int]:
    """Clusters of each level, the finest first: of K and L levels K, K^((L-1)/L), ... K^(1/L).

    Raises:
        ValueError: if two levels would have equally many, or one fewer than two.
    """
    sizes = [round(num_clusters ** ((num_levels - i) / num_levels)) for i in range(num_levels)]
    if num_levels > 1 and (len(set(sizes)) < num_levels or sizes[-1] < 2):
        raise ValueError(
            f'{num_clusters} clusters are too few for {num_levels} levels. Give fewer --levels, or '
            f'at least --num-clusters {2**num_levels}.'
        )
    return sizes


def weighted_kmeans(
    x_AD: Tensor, weight_A: Tensor, num_clusters: int, *, num_iters: int = 20, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Spherical k-means of a few weighted points; every cluster has at least one.

    Args:
        x_AD: float32, of length 1 (A, D).
        weight_A: how many samples each stands for (A,).
        num_clusters: K, at most A.
        num_iters: Lloyd's iterations at most; they end when no label changes.
        seed: of the first centers.

    Returns:
        Labels, int64 (A,), and centers, float32 of length 1 (K, D).
    """
    weighted = x_AD * weight_A[:, None]
    centers, label = far_centers(x_AD, weight_A, num_clusters, seed), None
    for _ in range(num_iters):
        before = label
        label = filled(*nearest(x_AD, centers), num_clusters)
        if before is not None and torch.equal(label, before):
            break
        centers = normalize(torch.zeros_like(centers).index_add_(0, label, weighted), dim=1)
    return label, centers


def far_centers(x_AD: Tensor, weight_A: Tensor, num_clusters: int, seed: int) -> Tensor:
    """First centers of k-means: points drawn by weight and squared distance (k-means++)."""
    generator = torch.Generator().manual_seed(seed)
    weight = weight_A.double()
    rows = [int(torch.multinomial(weight, 1, generator=generator))]
    distance = (1 - x_AD @ x_AD[rows[0]]).clamp_min(0).double()
    for _ in range(num_clusters - 1):
        chance = weight * distance
        chance[rows] = 0
        if not chance.any():  # what is left lies on chosen points
            chance = weight.index_fill(0, torch.tensor(rows), 0)
        rows.append(int(torch.multinomial(chance, 1, generator=generator)))
        distance = torch.minimum(distance, (1 - x_AD @ x_AD[rows[-1]]).clamp_min(0).double())
    return x_AD[rows]


def nearest(x_AD: Tensor, centers_KD: Tensor) -> tuple[Tensor, Tensor]:
    """Label and similarity of the most similar center, for each point (A,)."""
    found = [(part @ centers_KD.T).max(1) for part in x_AD.split(CHUNK_SIZE)]
    return torch.cat([f.indices for f in found]), torch.cat([f.values for f in found])


def filled(label: Tensor, similarity: Tensor, num_clusters: int) -> Tensor:
    """Give each empty cluster the point that fits its own center least, of clusters with more."""
    label, count = label.clone(), torch.bincount(label, minlength=num_clusters)
    order = iter(similarity.argsort(stable=True).tolist())
    for cluster in (count == 0).nonzero()[:, 0].tolist():
        row = next(row for row in order if count[label[row]] > 1)
        count[label[row]] -= 1
        label[row], count[cluster] = cluster, 1
    return label
