"""DeepCluster's labels: k-means of all features, from time to time."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from .kmeans import KMeansResult, check_table, kmeans, pca_whiten
from .precision import float32_no_grad, unit_rows
from .pseudo_labels import PseudoLabels, check_num_clusters
from .settings import SEED_RANGE, check_number


def cluster_weight(size_K: Tensor, power: float) -> Tensor:
    """Weight of each cluster in a re-weighted loss: size ^ -power, 0 for empty clusters.

    Args:
        size_K: number of samples per cluster (K,).
        power: 0 weighs all samples alike, 1 all clusters.

    Returns:
        float32 (K,). Only ratios matter to a loss that is divided by the sum of the weights.
    """
    return torch.where(size_K > 0, size_K.clamp(min=1).float() ** -power, 0.0)


class LabelsOfAll(nn.Module):
    """Labels that all samples get at once: :meth:`refit` from time to time, :meth:`step` between.

    Methods that label so add ``cluster``, which finds the labels.

    Args:
        num_samples: A, number of samples in the data set.
        num_clusters: K, at most ``num_samples``.
    """

    keeps_features = False
    """Whether :meth:`refit` needs all features on each process, if it gets the clusters."""

    size: Tensor
    num_fits: Tensor

    def __init__(self, num_samples: int, num_clusters: int) -> None:
        super().__init__()
        check_num_clusters(num_clusters, num_samples)
        self.labels = PseudoLabels(num_samples, num_clusters)
        self.register_buffer('size', torch.zeros(num_clusters, dtype=torch.int64))
        self.register_buffer('num_fits', torch.zeros((), dtype=torch.int64))

    @property
    def num_clusters(self) -> int:
        return self.labels.num_clusters

    @float32_no_grad
    def step(self, x_ND: Tensor, idx_N: Tensor) -> Tensor:
        """Labels of the samples, int64 (N,); the features (N, D) do not matter here.

        ``UNASSIGNED`` for those that :meth:`refit` has left out.

        Raises:
            ValueError: if there are no labels yet, or an index is not in the data set (on CPU; on a
                GPU the device stops).
        """
        check_fitted(self.num_fits)
        return self.labels.read(idx_N)

    @float32_no_grad
    def refit(
        self,
        x_AD: Tensor,
        clusters: KMeansResult | None = None,
        *,
        left_out: Sequence[int] = (),
        **options: Tensor,
    ) -> None:
        """Label all samples anew.

        Args:
            x_AD: features in data-set order (A, D); with ``clusters``, they do not matter.
            clusters: what :meth:`cluster` returned for them on another process.
            left_out: samples without features; they have no label then, whatever ``clusters`` says.
            **options: of :meth:`cluster`.
        """
        if clusters is None:
            clusters = self.cluster(x_AD, **options)
        self.labels.assign_all(clusters.label)
        self.labels.forget(torch.tensor(left_out, dtype=torch.int64))
        self.size.copy_(self.labels.sizes())
        self.num_fits += 1

    def sizes(self) -> Tensor:
        """Number of samples per cluster, int64 (K,)."""
        return self.size


class DeepClusterLabeler(LabelsOfAll):
    """Labels from k-means of the features of all images (Caron et al., ECCV 2018).

    :meth:`refit` with all features before training and then, as a rule, after every epoch;
    :meth:`step` reads the labels in between. As the numbers of the clusters mean nothing from one
    clustering to the next, the classifier starts anew after each: that is up to the caller.

    Args:
        num_samples: A, number of samples in the data set.
        num_clusters: K, at most ``num_samples``.
        pca_dim: principal components that are whitened and clustered; None clusters the
            L2-normalized features themselves.
        num_iters: iterations of k-means.
        reweight_pow: power of :func:`cluster_weight`; 0 where the sampler is uniform over clusters.
        seed: of k-means; each clustering starts from other samples.

    Raises:
        ValueError: if there are more clusters than samples, or a setting is out of its range.
    """

    def __init__(
        self,
        num_samples: int,
        num_clusters: int,
        *,
        pca_dim: int | None = 256,
        num_iters: int = 20,
        reweight_pow: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(num_samples, num_clusters)
        if pca_dim is not None:
            check_number('pca_dim', pca_dim, '[1, inf)', whole=True)
        check_number('num_iters', num_iters, '[1, inf)', whole=True)
        check_number('reweight_pow', reweight_pow, '[0, 1]')
        check_number('seed', seed, SEED_RANGE, whole=True)
        self.pca_dim, self.num_iters = pca_dim, num_iters
        self.reweight_pow, self.seed = reweight_pow, seed

    def cluster(
        self, x_AD: Tensor, progress: Callable[[Iterable], Iterable] = iter
    ) -> KMeansResult:
        """Cluster the features of all samples, without taking the labels over.

        Args:
            x_AD: features in data-set order (A, D).
            progress: see :func:`kmeans`.

        Raises:
            ValueError: as :func:`pca_whiten` and :func:`kmeans`.
        """
        check_table(x_AD)
        x_AD = unit_rows(x_AD) if self.pca_dim is None else pca_whiten(x_AD, self.pca_dim)
        seed = self.seed + int(self.num_fits)
        options = dict(num_iters=self.num_iters, seed=seed, progress=progress)
        return kmeans(x_AD, self.num_clusters, **options)

    def cluster_weight(self) -> Tensor:
        """Weight of each cluster in the loss (K,)."""
        return cluster_weight(self.size, self.reweight_pow)

    def extra_repr(self) -> str:
        return (
            f'pca_dim={self.pca_dim}, num_iters={self.num_iters}, reweight_pow={self.reweight_pow}'
        )


def check_fitted(num_fits: Tensor) -> None:
    """ValueError if :meth:`refit` was never called; not on accelerators, where it would wait."""
    if num_fits.device.type == 'cpu' and not num_fits:
        raise ValueError(
            'There are no labels before the first clustering: call refit(x_AD) with the features '
            'of all samples, or add the hook of the method to custom_hooks.'
        )
