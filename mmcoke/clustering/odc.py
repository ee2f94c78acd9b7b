"""Online deep clustering (ODC): labels and centroids that move with a memory of features."""

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import normalize

from .deepcluster import check_fitted, cluster_weight
from .feature_memory import FeatureMemory
from .kmeans import KMeansResult, check_table, kmeans, split_in_two
from .precision import float32_no_grad, unit_rows
from .pseudo_labels import UNASSIGNED, PseudoLabels, check_batch, check_num_clusters, last_of_equals
from .settings import SEED_RANGE, check_number

# Sums of features are kept as integers, in units of 2^-32: what is added can be taken off again
# to the bit, in any order, on any device; 2^31 unit vectors in one cluster fit.
UNIT = 2.0**-32
CHUNK_SIZE = 1 << 10


def as_units(x: Tensor) -> Tensor:
    """Features in [-1, 1] as integers, int64."""
    return (x / UNIT).round_().long()


class ODCLabeler(nn.Module):
    """Labels by the nearest centroid of a memory of features (Zhan et al., CVPR 2020).

    :meth:`refit` once, with the features of all samples; then :meth:`step` for every global batch.
    The caller says when: :meth:`update_centroids` every few iterations (10 in the paper),
    :meth:`split_small_clusters` (every iteration there), :meth:`end_epoch`.

    Centroids are means of the memory over the members of a cluster, not normalized. Their sums
    follow each sample that moves, so an update costs nothing per sample.

    Args:
        num_samples: A, number of samples in the data set.
        num_clusters: K, at most ``num_samples / min_size``.
        dim: D, dimension of the features.
        momentum: share of the new feature in the memory, in (0, 1].
        min_size: clusters with fewer samples are dissolved, and replaced by halves of the largest.
        reweight_pow: power of :func:`cluster_weight`.
        num_iters, seed: of the k-means in :meth:`refit`.
        memory_device: where the memory stays, such as 'cpu'; None: with the module.
        shard_memory: spread the memory over the processes; see :class:`FeatureMemory`.

    Attributes:
        num_small: small clusters that were replaced in this epoch so far.

    Raises:
        ValueError: if an argument is out of its range.
    """

    centroids: Tensor
    total: Tensor
    size: Tensor
    num_fits: Tensor

    def __init__(
        self,
        num_samples: int,
        num_clusters: int,
        dim: int,
        *,
        momentum: float = 0.5,
        min_size: int = 20,
        reweight_pow: float = 0.5,
        num_iters: int = 20,
        seed: int = 0,
        memory_device: str | None = None,
        shard_memory: bool = False,
    ) -> None:
        super().__init__()
        check_num_clusters(num_clusters, num_samples)
        check_number('min_size', min_size, '[0, inf)', whole=True)
        check_number('momentum', momentum, '(0, 1]')
        check_number('reweight_pow', reweight_pow, '[0, 1]')
        check_number('num_iters', num_iters, '[1, inf)', whole=True)
        check_number('seed', seed, SEED_RANGE, whole=True)
        if num_clusters * min_size > num_samples:
            raise ValueError(
                f'{num_clusters} clusters of min_size={min_size} need more than the {num_samples} '
                'samples of the data set. Lower num_clusters or min_size.'
            )
        self.momentum, self.min_size, self.reweight_pow = momentum, min_size, reweight_pow
        self.num_iters, self.seed = num_iters, seed
        self.memory = FeatureMemory(num_samples, dim, device=memory_device, sharded=shard_memory)
        self.labels = PseudoLabels(num_samples, num_clusters)
        self.register_buffer('centroids', torch.zeros(num_clusters, dim))
        self.register_buffer('total', torch.zeros(num_clusters, dim, dtype=torch.int64))
        self.register_buffer('size', torch.zeros(num_clusters, dtype=torch.int64))
        self.register_buffer('num_fits', torch.zeros((), dtype=torch.int64))
        # Share of labels that changed, summed over the batches of the epoch, and their number.
        self.register_buffer('_changed', torch.zeros(2), persistent=False)
        self.num_small = 0

    @property
    def keeps_features(self) -> bool:
        """Whether :meth:`refit` needs all features on each process, not only the own rows."""
        return not self.memory.sharded

    @property
    def num_clusters(self) -> int:
        return self.labels.num_clusters

    @float32_no_grad
    def step(self, x_ND: Tensor, idx_N: Tensor) -> Tensor:
        """Labels of the samples; then move their memory and label them by the nearest centroid.

        Of a sample that comes more than once, the last row counts.

        Args:
            x_ND: L2-normalized features of the global batch (N, D), the same on every process.
            idx_N: their ``sample_idx``, int64 (N,).

        Returns:
            int64 (N,), the labels before the step; the new ones of samples that had none.

        Raises:
            ValueError: if :meth:`refit` was not called, shapes do not agree, or (on CPU) an index
                is not in the data set or a feature is not finite.
        """
        check_fitted(self.num_fits)
        check_batch(x_ND, idx_N, self.memory.dim, self.memory.num_samples)
        label_N, old_ND = self.labels.read(idx_N), self.memory.read(idx_N)
        new_ND = normalize(torch.lerp(old_ND, x_ND, self.momentum), dim=1)
        new_label_N = (new_ND @ self.centroids.T).argmax(1)

        last_N = last_of_equals(idx_N)
        counts_N = (last_N == torch.arange(len(idx_N), device=idx_N.device)).long()
        self._add(label_N, old_ND, -counts_N)
        self._add(new_label_N, new_ND, counts_N)
        self.memory.write(idx_N, new_ND[last_N])
        changed = self.labels.write(idx_N, new_label_N)
        self._changed += torch.stack([changed, torch.ones_like(changed)])
        return torch.where(label_N == UNASSIGNED, new_label_N, label_N)

    def _add(self, label_N: Tensor, x_ND: Tensor, times_N: Tensor) -> None:
        """Add features to the sums of clusters: 1, 0 or -1 times; none without a label."""
        times_N = times_N * (label_N != UNASSIGNED)
        label_N = label_N.clamp(min=0)
        self.total.index_add_(0, label_N, as_units(x_ND) * times_N[:, None])
        self.size.index_add_(0, label_N, times_N)

    @float32_no_grad
    def update_centroids(self) -> None:
        """Let the centroids follow the memory; those of empty clusters stay."""
        self._update_centroids(slice(None))

    def _update_centroids(self, clusters: slice | list[int]) -> None:
        size_k1, total_kD = self.size[clusters, None], self.total[clusters]
        mean_kD = total_kD.float() * UNIT / size_k1.clamp(min=1)
        self.centroids[clusters] = torch.where(size_k1 > 0, mean_kD, self.centroids[clusters])

    @float32_no_grad
    def split_small_clusters(self) -> int:
        """Dissolve clusters below ``min_size`` and split the largest in two, once for each.

        Their members go to the nearest centroid among the other clusters. Then each small cluster,
        in order, gets a half (2-means) of the cluster that is the largest at that time; the
        centroids of both halves are updated.

        Returns:
            Number of small clusters.
        """
        small_K = self.size < self.min_size
        small = small_K.nonzero().flatten().tolist()
        self.num_small += len(small)
        if small:
            self._dissolve(small_K)
            members = self._members(self.size.sort(descending=True, stable=True)[1][: len(small)])
            for cluster in small:
                self._split_largest(cluster, members)
        return len(small)

    def _dissolve(self, small_K: Tensor) -> None:
        """Move the members of small clusters to the nearest centroid of the others."""
        for idx_n in self._find(small_K).split(CHUNK_SIZE):
            x_nD = self.memory.read(idx_n)
            similarity_nK = (x_nD @ self.centroids.T).masked_fill_(small_K, -torch.inf)
            self._relabel(idx_n, x_nD, similarity_nK.argmax(1))

    def _split_largest(self, cluster: int, members: dict[int, Tensor]) -> None:
        """Give an empty cluster half of the largest; ``members`` follows."""
        largest = self.size.argmax().item()
        idx_n = members[largest]
        x_nD = self.memory.read(idx_n)
        moved_n = split_in_two(x_nD)
        members[largest], members[cluster] = idx_n[~moved_n], idx_n[moved_n]
        label_n = torch.full((int(moved_n.sum()),), cluster, device=idx_n.device)
        self._relabel(members[cluster], x_nD[moved_n], label_n)
        self._update_centroids([largest, cluster])

    def _relabel(self, idx_n: Tensor, x_nD: Tensor, label_n: Tensor) -> None:
        """Move samples (without repetition) with their features to other clusters."""
        once_n = torch.ones_like(idx_n)
        self._add(self.labels.read(idx_n), x_nD, -once_n)
        self._add(label_n, x_nD, once_n)
        self.labels.write(idx_n, label_n)

    def _find(self, chosen_K: Tensor) -> Tensor:
        """Samples, in order, whose cluster is chosen, bool (K,): one pass over the labels."""
        # One place more, in front, for UNASSIGNED.
        chosen = torch.cat([chosen_K.new_zeros(1), chosen_K])
        return chosen.index_select(0, self.labels.label.int() + 1).nonzero().flatten()

    def _members(self, clusters: Tensor) -> dict[int, Tensor]:
        """Samples, in order, of each of some clusters."""
        chosen_K = torch.zeros_like(self.size, dtype=torch.bool)
        chosen_K[clusters] = True
        idx_n = self._find(chosen_K)
        order_n = self.labels.read(idx_n).argsort(stable=True)
        sizes = self.size[chosen_K].tolist()
        parts = idx_n[order_n].split(sizes)
        return dict(zip(chosen_K.nonzero().flatten().tolist(), parts, strict=True))

    def cluster(
        self, x_AD: Tensor, progress: Callable[[Iterable], Iterable] = iter
    ) -> KMeansResult:
        """Cluster the normalized features of all samples, without taking the labels over.

        Args:
            x_AD: features in data-set order (A, D).
            progress: see :func:`kmeans`.

        Raises:
            ValueError: as :func:`kmeans`.
        """
        check_table(x_AD)
        x_AD = unit_rows(x_AD)
        options = dict(num_iters=self.num_iters, seed=self.seed, progress=progress)
        return kmeans(x_AD, self.num_clusters, **options)

    @float32_no_grad
    def refit(
        self,
        x_AD: Tensor,
        clusters: KMeansResult | None = None,
        *,
        left_out: Sequence[int] = (),
    ) -> None:
        """Fill the memory, and label all samples by k-means.

        Args:
            x_AD: features in data-set order (A, D); with ``clusters``, those whose rows of the
                memory are here will do.
            clusters: what :meth:`cluster` returned for them on another process.
            left_out: samples whose features are rows of 0; they have no label until their first
                step, whatever ``clusters`` says.

        Raises:
            ValueError: as :meth:`cluster`, or if features or labels are not of all samples.
        """
        if clusters is None:
            clusters = self.cluster(x_AD)
        own_nD = x_AD if len(x_AD) == len(self.memory.x) else x_AD[self.memory.own]
        if own_nD.shape != self.memory.x.shape:
            raise ValueError(
                f'The memory takes features {tuple(self.memory.x.shape)}, but got '
                f'{tuple(own_nD.shape)}.'
            )
        self.labels.assign_all(clusters.label)
        self.labels.forget(torch.tensor(left_out, dtype=torch.int64))
        self.memory.x.copy_(unit_rows(own_nD))
        self.recompute()
        self.update_centroids()
        self.num_fits += 1

    @float32_no_grad
    def recompute(self) -> None:
        """Sum up all features of each cluster from scratch: to the bit what the steps lead to."""
        self.total.zero_()
        label = self.labels.label[self.memory.own]
        parts = zip(label.split(CHUNK_SIZE), self.memory.x.split(CHUNK_SIZE), strict=True)
        for label_n, x_nD in parts:
            units_nD = as_units(x_nD.to(self.total.device))  # 0 where there is no label
            self.total.index_add_(0, label_n.long().clamp(min=0), units_nD)
        if self.memory.sharded:
            dist.all_reduce(self.total)
        self.size.copy_(self.labels.sizes())

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch."""
        self._changed.zero_()
        self.num_small = 0

    def end_epoch(self) -> None:
        """Recompute sums and sizes."""
        self.recompute()

    def cluster_weight(self) -> Tensor:
        """Weight of each cluster in the loss (K,)."""
        return cluster_weight(self.size, self.reweight_pow)

    def sizes(self) -> Tensor:
        """Number of samples per cluster, int64 (K,)."""
        return self.size

    def changed(self) -> Tensor:
        """Share of samples whose label changed in this epoch so far, a scalar tensor."""
        return self._changed[0] / self._changed[1].clamp(min=1)

    def extra_repr(self) -> str:
        return (
            f'momentum={self.momentum}, min_size={self.min_size}, reweight_pow={self.reweight_pow}'
        )
