"""CoKe's order of reads and writes."""

import torch
from torch import Tensor, nn

from .online_kmeans import OnlineConstrainedKMeans
from .precision import float32_no_grad
from .pseudo_labels import (
    UNASSIGNED,
    AveragedPseudoLabels,
    PseudoLabels,
    check_batch,
    check_num_clusters,
)
from .settings import check_number


class CoKeLabeler(nn.Module):
    """Gives each sample the label of the last epoch as its target, and clusters along.

    One clustering head of CoKe (Qian et al., CVPR 2022). In an epoch:
    :meth:`set_epoch`, :meth:`step` for every global batch, :meth:`end_epoch`. The loss uses
    ``kmeans.centers`` (published at the end of the last epoch) with the returned target, so
    features, centers and targets agree.

    A sample without a label (first epoch, or left out so far) gets the one just assigned. The
    centers of the first epoch are random, so its learning rate must be 0: that is up to the recipe.

    Args:
        num_samples: A, number of samples in the data set.
        num_clusters: K, at most ``num_samples``.
        dim: D, dimension of the features.
        min_ratio, dual_lr, average_from_epoch, seed: see :class:`OnlineConstrainedKMeans`.
        num_slots, label_temperature: see :class:`AveragedPseudoLabels`; used with
            ``average_from_epoch`` only.

    Raises:
        ValueError: if an argument is out of its range, or there are more clusters than samples.
    """

    def __init__(
        self,
        num_samples: int,
        num_clusters: int,
        dim: int,
        *,
        min_ratio: float = 0.4,
        dual_lr: float = 20.0,
        average_from_epoch: int | None = None,
        num_slots: int = 5,
        label_temperature: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_num_clusters(num_clusters, num_samples)
        check_number('num_slots', num_slots, '[1, inf)', whole=True)
        check_number('label_temperature', label_temperature, '(0, inf)')
        self.kmeans = OnlineConstrainedKMeans(
            num_clusters,
            dim,
            min_ratio=min_ratio,
            dual_lr=dual_lr,
            average_from_epoch=average_from_epoch,
            seed=seed,
        )
        if average_from_epoch is None:
            self.labels = PseudoLabels(num_samples, num_clusters)
        else:
            self.labels = AveragedPseudoLabels(
                num_samples, num_clusters, num_slots, label_temperature
            )
        # Share of labels that changed, summed over the batches of the epoch, and their number.
        self.register_buffer('_changed', torch.zeros(2), persistent=False)

    @property
    def newest(self) -> PseudoLabels:
        """The table of the labels assigned last."""
        return getattr(self.labels, 'newest', self.labels)

    @property
    def min_size(self) -> float:
        """Lower bound of the size of a cluster, in samples."""
        return self.kmeans.min_ratio * self.newest.num_samples / self.kmeans.num_clusters

    @float32_no_grad
    def step(self, x_ND: Tensor, idx_N: Tensor, own: slice = slice(None)) -> Tensor:
        """Target of each sample from the last epoch; then cluster the batch.

        Args:
            x_ND: L2-normalized features of the global batch (N, D), the same on every process.
            idx_N: their ``sample_idx``, int64 (N,).
            own: the n rows whose targets are wanted, those of this process; all by default. Soft
                targets are dense, so N rows of them would take much memory.

        Returns:
            int64 (n,) labels; from the second epoch of stage 2 on, float32 (n, K) soft targets.

        Raises:
            ValueError: if shapes do not agree, an index is not in the data set, or (on CPU; on an
                accelerator :meth:`end_epoch` does so, not to stall every iteration) a feature is
                not finite.
        """
        check_batch(x_ND, idx_N, self.kmeans.dim, self.newest.num_samples)
        step = self.kmeans.average_step
        previous_N = self.newest.read(idx_N)
        target = self.labels.read(idx_N[own]) if step > 1 else previous_N[own]
        label_N = self.kmeans.assign(x_ND)
        self.kmeans.update(x_ND, label_N)
        if step:
            self.labels.write(idx_N, label_N, step)
        else:
            self.newest.write(idx_N, label_N)
        changed = (previous_N != label_N).float().mean()
        self._changed += torch.stack([changed, torch.ones_like(changed)])
        new_n, label_n = previous_N[own] == UNASSIGNED, label_N[own]
        if target.ndim == 1:
            return torch.where(new_n, label_n, target)
        # The row of a sample without a label is 0 so far.
        return target.scatter_add_(1, label_n[:, None], new_n[:, None].to(target.dtype))

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch, numbered from 0."""
        self.kmeans.set_epoch(epoch)
        self._changed.zero_()

    def continue_epoch(self, epoch: int) -> None:
        """Go on within an epoch whose state was loaded, instead of :meth:`set_epoch`."""
        self.kmeans.continue_epoch(epoch)

    def end_epoch(self) -> None:
        """Publish the centers; raises ValueError as :meth:`OnlineConstrainedKMeans.end_epoch`."""
        self.kmeans.end_epoch()

    def sizes(self) -> Tensor:
        """Number of samples per cluster by their newest label, int64 (K,)."""
        return self.newest.sizes()

    def changed(self) -> Tensor:
        """Share of samples whose label changed in this epoch so far, a scalar tensor."""
        return self._changed[0] / self._changed[1].clamp(min=1)
