"""What a sort has found: the rows and clusters that all writers tell about."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .alike import Alike
from .duplicates import NO_GROUP, members_of
from .hierarchy import Level

NUM_EXEMPLARS = 3


@dataclass
class Sorted:
    """Images in clusters.

    Attributes:
        root: absolute path of the folder that the names are in.
        names: of the images, below ``root`` or absolute (A).
        label: cluster of each on the finest level, int64 (A,).
        similarity: of each to the center of its cluster, float32 (A,): cosine, or q of DEC.
        margin: that less the similarity to the best other center, float32 (A,); inf if K = 1.
        centers: of the finest level, float32 (K, D).
        coarser: the other levels, the second-finest first.
        group: of near duplicates, int64 (A,), -1 for none.
        keep: whether an image is the one of its group to keep, bool (A,).
        rank: of an image among the picks, from 1, int64 (A,); 0 if it is none.
        model: that assigns new vectors, of a :class:`~mmcoke.clustering.DecResult`; None where the
            nearest center does.
        alike: some images, and those most like them.
    """

    root: str
    names: Sequence[str]
    label: Tensor
    similarity: Tensor
    margin: Tensor
    centers: Tensor
    coarser: list[Level]
    group: Tensor
    keep: Tensor
    rank: Tensor
    model: dict[str, Tensor] | None = None
    facts: dict = field(default_factory=dict)
    alike: list[Alike] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def num_clusters(self) -> int:
        """K, of the finest level."""
        return len(self.centers)

    @property
    def sizes(self) -> Tensor:
        """Images in each cluster, int64 (K,)."""
        return torch.bincount(self.label, minlength=self.num_clusters)

    @property
    def picks(self) -> list[int]:
        """Rows that were picked, in the order of their ranks."""
        rows = self.rank.nonzero()[:, 0]
        return rows[self.rank[rows].argsort()].tolist()

    def path(self, row: int) -> str:
        """Absolute path of an image."""
        return os.path.join(self.root, self.names[row])

    def labels(self) -> list[Tensor]:
        """Clusters of the images on all levels, the finest first (A,)."""
        found = [self.label]
        for level in self.coarser:
            found.append(level.parent[found[-1]])
        return found

    def typical(self) -> list[Tensor]:
        """Rows of each cluster, the most similar to its center first."""
        order = self.similarity.argsort(descending=True, stable=True)
        return [order[rows] for rows in members_of(self.label[order], self.num_clusters)]

    def groups(self) -> list[list[int]]:
        """Rows of each group of near duplicates: the one to keep first; large groups first."""
        rows = (self.group != NO_GROUP).nonzero()[:, 0]
        if not len(rows):
            return []
        rows = rows[(~self.keep[rows]).long().argsort(stable=True)]
        rows = rows[self.group[rows].argsort(stable=True)]
        found = [part.tolist() for part in rows.split(torch.bincount(self.group[rows]).tolist())]
        return sorted(found, key=len, reverse=True)
