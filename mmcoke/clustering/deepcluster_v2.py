"""DeepCluster-v2's labels: spherical k-means of the features that the last epoch left behind."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from .feature_memory import FeatureMemory
from .heads import several
from .kmeans import KMeansResult, kmeans
from .precision import float32_no_grad
from .pseudo_labels import (
    UNASSIGNED,
    PseudoLabels,
    check_batch,
    check_num_clusters,
    last_of_equals,
)
from .settings import SEED_RANGE, check_number

T = TypeVar('T')


class DeepClusterV2Labeler(nn.Module):
    """Clusters, at the end of each epoch, the features that its batches had.

    DeepCluster-v2 (Caron et al., NeurIPS 2020, appendix D). A memory keeps the newest feature of
    each sample, so no pass over the data set is needed; spherical k-means of it gives labels and
    centers, which are the classifier of the next epoch and are never trained. In an epoch:
    :meth:`set_epoch`, :meth:`step` for every global batch, :meth:`end_epoch`; where several
    processes train, :meth:`cluster` on one of them and :meth:`refit` on all instead of the latter.

    A sample without a label (first epoch, or left out so far) gets the center nearest to it. The
    centers of the first epoch are random, so its learning rate must be 0: that is up to the recipe.

    Several clusterings of the same memory differ by the samples that k-means starts from. With a
    list of numbers of clusters, results are lists with an entry per clustering; each is there as a
    :class:`MemoryClustering`, by its number or in a loop.

    The memory takes 4 A D bytes on each process and in a checkpoint: 656 MB for ImageNet-1k and
    D = 128.

    Args:
        num_samples: A, number of samples in the data set.
        num_clusters: K, at most ``num_samples``; or a list, one number per clustering.
        dim: D, dimension of the features.
        num_iters: iterations of k-means.
        seed: of k-means; each epoch and clustering starts from other samples.

    Raises:
        ValueError: if there are more clusters than samples, or a setting is out of its range.
    """

    def __init__(
        self,
        num_samples: int,
        num_clusters: int | Sequence[int],
        dim: int,
        *,
        num_iters: int = 10,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_number('num_iters', num_iters, '[1, inf)', whole=True)
        check_number('seed', seed, SEED_RANGE, whole=True)
        self.several = several(num_clusters)
        sizes = num_clusters if self.several else [num_clusters]
        if not sizes:
            raise ValueError('num_clusters is empty: name one number per clustering.')
        self.num_iters, self.seed, self.epoch = num_iters, seed, 0
        for number, k in enumerate(sizes):
            self.add_module(str(number), MemoryClustering(num_samples, k, dim, seed=seed + number))
        self.num_heads = len(sizes)
        self.memory = FeatureMemory(num_samples, dim)

    def __len__(self) -> int:
        return self.num_heads

    def __iter__(self) -> Iterator['MemoryClustering']:
        return (self[number] for number in range(self.num_heads))

    def __getitem__(self, number: int) -> 'MemoryClustering':
        return self.get_submodule(str(range(self.num_heads)[number]))

    @property
    def centers(self) -> Tensor | list[Tensor]:
        """The centers (K, D) of the last clustering, unit vectors: the classifier."""
        return self._result([head.centers for head in self])

    @float32_no_grad
    def step(self, x_ND: Tensor, idx_N: Tensor, own: slice = slice(None)) -> Tensor | list[Tensor]:
        """Labels of the samples; then their features go to the memory.

        Of a sample that comes more than once, the last feature counts.

        Args:
            x_ND: L2-normalized features of the global batch (N, D), the same on every process.
            idx_N: their ``sample_idx``, int64 (N,).
            own: the n rows whose labels are wanted, those of this process; all by default.

        Returns:
            int64 (n,).

        Raises:
            ValueError: if shapes do not agree, or (on CPU) an index is not in the data set or a
                feature is not finite.
        """
        check_batch(x_ND, idx_N, self.memory.dim, self.memory.num_samples)
        idx_N = idx_N.long()
        targets = [head.targets(x_ND[own], idx_N[own]) for head in self]
        self.memory.write(idx_N, x_ND[last_of_equals(idx_N)])
        return self._result(targets)

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch, numbered from 0, or go on within one whose state was loaded."""
        check_number('epoch', epoch, '[0, inf)', whole=True)
        self.epoch = epoch

    @torch.no_grad()
    def cluster(self, progress: Callable[[Iterable], Iterable] = iter) -> list[KMeansResult]:
        """Cluster the memory, without taking labels and centers over.

        Args:
            progress: see :func:`kmeans`.

        Returns:
            For each clustering; labels are ``UNASSIGNED`` for samples that never came.

        Raises:
            ValueError: as :func:`kmeans`; so if fewer samples have come than there are clusters, or
                their features were not finite.
        """
        x_AD = self.memory.x
        seen_A = x_AD.any(1)
        if not seen_A.all():
            x_AD = x_AD[seen_A]
        clusters = []
        for number, head in enumerate(self):
            seed = (self.seed + self.epoch * self.num_heads + number) % 2**32
            options = dict(num_iters=self.num_iters, seed=seed, progress=progress)
            found = kmeans(x_AD, head.num_clusters, spherical=True, **options)
            label_A = torch.full(seen_A.shape, UNASSIGNED)
            label_A[seen_A.cpu()] = found.label
            clusters.append(KMeansResult(label_A, found.centers, found.objective, found.num_filled))
        return clusters

    @torch.no_grad()
    def refit(self, clusters: Sequence[tuple[Tensor, Tensor]] | None = None) -> None:
        """Take over labels and centers.

        Args:
            clusters: for each clustering, labels (A,) and centers (K, D): what :meth:`cluster`
                returned, here or on another process; None calls it.
        """
        for head, (label_A, centers_KD) in zip(self, clusters or self.cluster(), strict=True):
            head.labels.assign_all(label_A.clamp(min=0))
            head.labels.forget((label_A == UNASSIGNED).nonzero()[:, 0])
            head.centers.copy_(centers_KD)

    def end_epoch(self) -> None:
        """Cluster the memory for the next epoch; raises ValueError as :meth:`cluster`."""
        self.refit()

    def sizes(self) -> Tensor | list[Tensor]:
        """Number of samples per cluster, int64 (K,)."""
        return self._result([head.sizes() for head in self])

    def _result(self, of_heads: list[T]) -> T | list[T]:
        return of_heads if self.several else of_heads[0]

    def extra_repr(self) -> str:
        return f'num_iters={self.num_iters}, seed={self.seed}'


class MemoryClustering(nn.Module):
    """Labels and centers of one clustering; see :class:`DeepClusterV2Labeler`.

    Args:
        num_samples, num_clusters, dim: see there.
        seed: of the first centers, which only :meth:`targets` of samples without a label see.
    """

    centers: Tensor

    def __init__(self, num_samples: int, num_clusters: int, dim: int, *, seed: int = 0) -> None:
        super().__init__()
        check_num_clusters(num_clusters, num_samples)
        check_number('dim', dim, '[1, inf)', whole=True)
        self.labels = PseudoLabels(num_samples, num_clusters)
        generator = torch.Generator().manual_seed(seed)
        centers = normalize(torch.randn(num_clusters, dim, generator=generator), dim=1)
        self.register_buffer('centers', centers)

    @property
    def num_clusters(self) -> int:
        return self.labels.num_clusters

    def targets(self, x_ND: Tensor, idx_N: Tensor) -> Tensor:
        """Labels of samples, int64 (N,); by the nearest center of those that have none."""
        label_N = self.labels.read(idx_N)
        nearest_N = (x_ND @ self.centers.T).argmax(1)
        return torch.where(label_N == UNASSIGNED, nearest_N, label_N)

    def sizes(self) -> Tensor:
        """Number of samples per cluster, int64 (K,)."""
        return self.labels.sizes()
