"""Online k-means with a lower bound on cluster sizes (CoKe)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from .precision import float32_no_grad
from .pseudo_labels import check_features, check_labels
from .settings import SEED_RANGE, check_number


class OnlineConstrainedKMeans(nn.Module):
    r"""Clusters a stream of unit vectors; pushes sizes towards a lower bound, on average.

    Qian et al., "Unsupervised Visual Representation Learning by Online Constrained K-Means", CVPR
    2022. With similarities :math:`x \cdot c_k`, dual variables :math:`\rho` and, in the batch,
    :math:`n_k` of N samples in cluster k:

    - assign: :math:`\arg\max_k x \cdot c_k + \rho_k`
    - duals: :math:`\rho_k \leftarrow \max(0, \rho_k - \eta (n_k / N - \gamma / K))`, without the
      max if :math:`\gamma = 1` (then sizes are balanced, not only bounded from below)
    - centers: mean of the samples of this epoch, on the unit sphere:
      :math:`c_k \leftarrow \mathrm{normalize}((count_k c_k + \sum x) / (count_k + n_k))`

    In an epoch: :meth:`set_epoch`, then for every batch :meth:`assign` and :meth:`update`, then
    :meth:`end_epoch`. All processes must get the same global batches; they then hold the same
    buffers, bit for bit.

    From ``average_from_epoch`` on (stage 2, t = 1, 2, ...) ``assign`` uses the published
    centers, the running mean is not normalized within the epoch, and the epoch ends with
    :math:`c \leftarrow \mathrm{normalize}((1 - 1/t) c + \mathrm{normalize}(running) / t)`.

    Args:
        num_clusters: K.
        dim: D, dimension of the vectors.
        min_ratio: :math:`\gamma` in (0, 1], the lower bound of a cluster's size as a share of the
            balanced size A / K.
        dual_lr: :math:`\eta`, step size of the duals. One sample moves a dual by
            :math:`\eta / N`, and similarities lie in [-1, 1]: see docs/methods/coke.md.
        average_from_epoch: first epoch of stage 2; None for never.
        seed: of the first centers. They come from a generator of their own, so that every process
            starts with the same ones.

    Raises:
        ValueError: if an argument is out of its range.
    """

    centers: Tensor
    running: Tensor
    dual: Tensor
    count: Tensor

    def __init__(
        self,
        num_clusters: int,
        dim: int,
        *,
        min_ratio: float = 0.4,
        dual_lr: float = 20.0,
        average_from_epoch: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_number('num_clusters', num_clusters, '[1, inf)', whole=True)
        check_number('dim', dim, '[1, inf)', whole=True)
        meaning = (
            'It is the smallest size of a cluster as a share of the balanced size; 1 balances, '
            'close to 0 does not constrain.'
        )
        check_number('min_ratio', min_ratio, '(0, 1]', hint=meaning)
        check_number('dual_lr', dual_lr, '[0, inf)')
        if average_from_epoch is not None:
            check_number('average_from_epoch', average_from_epoch, '[0, inf)', whole=True)
        check_number('seed', seed, SEED_RANGE, whole=True)
        self.num_clusters, self.dim = num_clusters, dim
        self.min_ratio, self.dual_lr = min_ratio, dual_lr
        self.average_from_epoch = average_from_epoch
        self.epoch = 0
        generator = torch.Generator().manual_seed(seed)
        centers = normalize(torch.randn(num_clusters, dim, generator=generator), dim=1)
        self.register_buffer('centers', centers)
        self.register_buffer('running', centers.clone())
        self.register_buffer('dual', torch.zeros(num_clusters))
        self.register_buffer('count', torch.zeros(num_clusters, dtype=torch.int64))

    @property
    def average_step(self) -> int:
        """t of stage 2 in the present epoch: 1, 2, ...; 0 in stage 1."""
        if self.average_from_epoch is None:
            return 0
        return max(0, self.epoch - self.average_from_epoch + 1)

    @float32_no_grad
    def assign(self, x_ND: Tensor) -> Tensor:
        """Cluster of each vector, int64 (N,), by similarity plus dual.

        Args:
            x_ND: L2-normalized vectors (N, D).

        Raises:
            ValueError: if they are of another shape.
        """
        check_features(x_ND, self.dim)
        centers = self.centers if self.average_step else self.running
        return torch.addmm(self.dual, x_ND, centers.T).argmax(1)

    @float32_no_grad
    def update(self, x_ND: Tensor, label_N: Tensor) -> None:
        """One step of the duals and of the centers; does not depend on the order of the rows.

        Args:
            x_ND: L2-normalized vectors of the global batch (N, D).
            label_N: what :meth:`assign` returned for them, int64 (N,).

        Raises:
            ValueError: if shapes or types do not fit, there is no vector, or (on CPU) a label is
                no cluster.
        """
        check_features(x_ND, self.dim)
        check_labels(label_N, x_ND.shape[:1], self.num_clusters)
        if not len(label_N):
            raise ValueError('update() got an empty batch.')
        # A product with the one-hot matrix: unlike index_add_ on CUDA it sums in a fixed order.
        clusters = torch.arange(self.num_clusters, device=label_N.device)
        member_KN = (clusters[:, None] == label_N).to(x_ND.dtype)
        size_K = member_KN.sum(1)

        self.dual -= self.dual_lr * (size_K / len(label_N) - self.min_ratio / self.num_clusters)
        if self.min_ratio < 1:
            self.dual.clamp_(min=0)

        count_K = self.count.to(x_ND.dtype)
        total_KD = count_K[:, None] * self.running + member_KN @ x_ND
        mean_KD = total_KD / (count_K + size_K).clamp(min=1)[:, None]
        if not self.average_step:
            mean_KD = normalize(mean_KD, dim=1)
        hit_K1 = size_K[:, None] > 0
        self.running.copy_(torch.where(hit_K1, mean_KD, self.running))
        self.count += size_K.long()

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch; counts start at 0, whatever a checkpoint has (the authors' are stale).

        Args:
            epoch: number of the epoch, from 0.
        """
        check_number('epoch', epoch, '[0, inf)', whole=True)
        self.epoch = epoch
        self.count.zero_()

    def continue_epoch(self, epoch: int) -> None:
        """Go on within an epoch, with the counts and centers of a checkpoint in its middle."""
        self.epoch = epoch

    @torch.no_grad()
    def end_epoch(self) -> None:
        """Publish the centers that the next epoch is trained against, and reset the counts.

        Raises:
            ValueError: if the epoch had no batch, or the features were not finite.
        """
        if not self.count.any():
            raise ValueError(
                f'Epoch {self.epoch} ended without any batch. Is the data set smaller than one '
                'batch while drop_last=True? Use a smaller batch_size or more images.'
            )
        if not (self.running.isfinite().all() and self.dual.isfinite().all()):
            raise ValueError(
                f'The cluster centers are not finite after epoch {self.epoch}: the features were '
                'NaN or infinite. Lower the learning rate, or check the images; then resume from '
                'the last checkpoint, which is older than this epoch.'
            )
        if self.average_step:
            running = normalize(self.running, dim=1)
            mean = torch.lerp(self.centers, running, 1 / self.average_step)
            self.running.copy_(normalize(mean, dim=1))
        self.centers.copy_(self.running)
        self.count.zero_()

    def extra_repr(self) -> str:
        return (
            f'num_clusters={self.num_clusters}, dim={self.dim}, min_ratio={self.min_ratio}, '
            f'dual_lr={self.dual_lr}, average_from_epoch={self.average_from_epoch}'
        )
