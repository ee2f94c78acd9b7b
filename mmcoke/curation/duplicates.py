"""Near duplicates: pairs within a cluster or next to it, joined into groups."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

BLOCK = 2048
"""Rows that are compared with as many others at once; 16 MB of similarities."""

NUM_NEIGHBORS = 8
"""Clusters next to each one that are searched."""

ROUNDING = 1e-6
"""By which the similarity of equal vectors may be less than 1."""

NO_GROUP = -1


def near_duplicates(
    x_AD: Tensor,
    label_A: Tensor,
    centers_KD: Tensor,
    threshold: float,
    *,
    num_neighbors: int = NUM_NEIGHBORS,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Tensor:
    """Groups of samples that are near duplicates of each other.

    Two samples are, if their cosine similarity is at least ``threshold``, and they are in the same
    cluster or in two of which one is among the ``num_neighbors`` next to the other, by centers.
    Duplicates of duplicates are in one group, so its ends may be less similar.

    Args:
        x_AD: vectors, of any length but 0; may lie on the disk, whole clusters are never read.
        label_A: cluster of each, int64 (A,).
        centers_KD: of the clusters, of length 1 (K, D).
        threshold: least cosine similarity.
        num_neighbors: clusters next to each that are searched.
        progress: wraps the list of pairs of clusters.

    Returns:
        int64 (A,): number of the group, from 0 in the order of their first samples; -1 for none.
    """
    groups, members = Groups(len(label_A)), members_of(label_A, len(centers_KD))
    for first, second in progress(cluster_pairs(centers_KD, num_neighbors)):
        for rows, others in blocks(members[first], members[second], first == second):
            similar = unit(x_AD, rows) @ unit(x_AD, others).T >= threshold - ROUNDING
            i, j = similar.nonzero(as_tuple=True)
            groups.join(rows[i].numpy(), others[j].numpy())
    return torch.from_numpy(groups.numbers())


def members_of(label_A: Tensor, num_clusters: int) -> tuple[Tensor, ...]:
    """Rows of each cluster, in their order."""
    sizes = torch.bincount(label_A, minlength=num_clusters)
    return label_A.argsort(stable=True).split(sizes.tolist())


def cluster_pairs(centers_KD: Tensor, num_neighbors: int) -> list[tuple[int, int]]:
    """Each cluster with itself, and once with each one next to it; sorted."""
    num_clusters = len(centers_KD)
    pairs = {(cluster, cluster) for cluster in range(num_clusters)}
    count = min(num_neighbors, num_clusters - 1) + 1
    for start in range(0, num_clusters, BLOCK):
        part = centers_KD[start : start + BLOCK]
        for cluster, found in enumerate((part @ centers_KD.T).topk(count).indices.tolist(), start):
            pairs |= {(min(cluster, other), max(cluster, other)) for other in found}
    return sorted(pairs)


def blocks(rows: Tensor, others: Tensor, same: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """All pairs of two lists of rows as pairs of short lists; of a list with itself each once."""
    for i, part in enumerate(rows.split(BLOCK)):
        for j, other in enumerate(others.split(BLOCK)):
            if len(part) and len(other) and (not same or j >= i):
                yield part, other


def unit(x_AD: Tensor, rows: Tensor) -> Tensor:
    """Some rows, in float32 and of length 1."""
    return normalize(x_AD[rows].float(), dim=1)


class Groups:
    """Union-find over rows, many pairs at once; a group's root is its first row.

    Args:
        num_rows: in the beginning each is alone.
    """

    def __init__(self, num_rows: int) -> None:
        self.root = np.arange(num_rows)

    def find(self, rows: np.ndarray) -> np.ndarray:
        """The roots of some rows."""
        found = self.root[rows]
        while not np.array_equal(found, up := self.root[found]):
            found = up
        self.root[rows] = found
        return found

    def join(self, rows: np.ndarray, others: np.ndarray) -> None:
        """Put each row into one group with the other one at the same place."""
        rows, others = self.find(rows), self.find(others)
        differ = rows != others
        if not differ.any():
            return
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        nodes, ends = np.unique([rows[differ], others[differ]], return_inverse=True)
        ends = ends.reshape(2, -1)
        shape = (len(nodes), len(nodes))
        edges = coo_array((np.ones(ends.shape[1], bool), (ends[0], ends[1])), shape)
        _, component = connected_components(edges, directed=False)
        first = np.full(component.max() + 1, len(self.root))
        np.minimum.at(first, component, nodes)
        self.root[nodes] = first[component]

    def numbers(self) -> np.ndarray:
        """A number for each row: of its group, or -1 where it is alone."""
        root = self.find(np.arange(len(self.root)))
        grouped = np.bincount(root, minlength=len(root)) > 1
        number = np.where(grouped, np.cumsum(grouped) - 1, NO_GROUP)
        return number[root]


def kept(group_A: Tensor, *qualities: Tensor) -> Tensor:
    """Which samples to keep: the best of each group, and all without a group.

    Args:
        group_A: as of :func:`near_duplicates`.
        qualities: of the samples, the larger the better; the first one decides, then the next. Of
            samples that are equal in all, the first is kept (A,).

    Returns:
        bool (A,).
    """
    keys = [-np.asarray(quality, np.float64) for quality in reversed(qualities)]
    group = group_A.numpy()
    order = np.lexsort([np.arange(len(group)), *keys, group])
    in_order = group[order]
    best = np.ones(len(group), bool)
    best[1:] = in_order[1:] != in_order[:-1]
    keep = group == NO_GROUP
    keep[order[best]] = True
    return torch.from_numpy(keep)
