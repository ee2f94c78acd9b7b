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
        repulsion: step of :func:`pushed_apart` on the centers at the end of each epoch; 0, as
            published, leaves them where the samples are.
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
        repulsion: float = 0.0,
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
        check_number('repulsion', repulsion, '[0, inf)')
        check_number('seed', seed, SEED_RANGE, whole=True)
        self.num_clusters, self.dim = num_clusters, dim
        self.min_ratio, self.dual_lr = min_ratio, dual_lr
        self.average_from_epoch, self.repulsion = average_from_epoch, repulsion
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
        return most_similar(x_ND, centers, self.dual, [self.num_clusters])[0]

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
        size_K = cluster_sizes(label_N[None], self.num_clusters)
        lower_bound = self.min_ratio / self.num_clusters
        dual_step(self.dual, size_K / len(label_N), self.dual_lr, lower_bound, self.min_ratio < 1)
        mean_step(self.running, self.count, size_K, x_ND, label_N[None], unit=not self.average_step)

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
        if self.repulsion:
            self.running.copy_(pushed_apart(self.running, self.repulsion))
        self.centers.copy_(self.running)
        self.count.zero_()

    def extra_repr(self) -> str:
        return (
            f'num_clusters={self.num_clusters}, dim={self.dim}, min_ratio={self.min_ratio}, '
            f'dual_lr={self.dual_lr}, average_from_epoch={self.average_from_epoch}'
        )


REPULSION_TEMPERATURE = 0.1
"""At which a center feels those that are nearly as near as its nearest one."""


def pushed_apart(
    centers_KD: Tensor, step: float, temperature: float = REPULSION_TEMPERATURE
) -> Tensor:
    r"""Centers after one gradient step that takes them away from their nearest ones.

    The objective is the uniformity of the centers, a soft sum of the largest similarities,
    :math:`T \sum_k \log \sum_{j \ne k} \exp(c_k \cdot c_j / T)`. With p_k, the softmax of
    :math:`c_k \cdot c_j / T` over :math:`j \ne k`, its gradient by c_k is
    :math:`\sum_j (p_{kj} + p_{jk}) c_j`, whatever T; the step goes back to the sphere. Memory:
    K x K numbers.

    Args:
        centers_KD: unit vectors (K, D).
        step: of the gradient descent.
        temperature: T.

    Returns:
        Unit vectors (K, D); a single one stays.
    """
    if len(centers_KD) < 2:
        return centers_KD
    similarity_KK = centers_KD @ centers_KD.T / temperature
    p_KK = similarity_KK.fill_diagonal_(-torch.inf).softmax(1)
    return normalize(centers_KD - step * ((p_KK + p_KK.T) @ centers_KD), dim=1)


# ---- one step, of one clustering or of several whose clusters lie one after another
#
# C clusters of H heads in all; sizes: K of each head. place_HN is the row of a sample's cluster
# among the C: its label plus the clusters of the heads before.

NUM_SIMILARITIES = 1 << 22
"""Similarities in one product on CPU: 16 MB, which are then still in the cache of most."""

BLOCK = 64


def most_similar(x_ND: Tensor, centers_CD: Tensor, dual_C: Tensor, sizes: list[int]) -> Tensor:
    """For each head, the cluster of each vector by similarity plus dual, int64 (H, N).

    One product over the clusters of all heads. Of equally good clusters the first counts.
    """
    on_cpu = x_ND.device.type == 'cpu'
    rows = max(NUM_SIMILARITIES // len(centers_CD), 1) if on_cpu else len(x_ND)
    labels = []
    for x_nD in x_ND.split(max(rows, 1)):
        similarity_nC = (x_nD @ centers_CD.T).add_(dual_C)
        find = blockwise_argmax if on_cpu else Tensor.argmax
        labels.append(torch.stack([find(part, 1) for part in similarity_nC.split(sizes, 1)]))
    return torch.cat(labels, 1) if len(labels) > 1 else labels[0]


def blockwise_argmax(x_nK: Tensor, dim: int = 1) -> Tensor:
    """``x_nK.argmax(1)``, in half of its time on CPU, where the largest value is found fast.

    The largest value of each block of columns, then the place within one block.
    """
    num_blocks = x_nK.shape[1] // BLOCK
    if num_blocks < 4:
        return x_nK.argmax(dim)
    whole = num_blocks * BLOCK
    best_nb = x_nK[:, :whole].unflatten(1, (num_blocks, BLOCK)).amax(2)
    block_n1 = best_nb.argmax(1, keepdim=True)
    best_nB = x_nK.gather(1, block_n1 * BLOCK + torch.arange(BLOCK, device=x_nK.device))
    label_n = block_n1[:, 0] * BLOCK + best_nB.argmax(1)
    if whole == x_nK.shape[1]:
        return label_n
    value_n, last_n = x_nK[:, whole:].max(1)
    return torch.where(value_n > best_nb.gather(1, block_n1)[:, 0], last_n + whole, label_n)


def cluster_sizes(place_HN: Tensor, num_clusters: int) -> Tensor:
    """Samples in each of the C clusters, int64 (C,)."""
    size_C = place_HN.new_zeros(num_clusters)
    return size_C.scatter_add_(0, place_HN.flatten(), torch.ones_like(place_HN).flatten())


def dual_step(
    dual_C: Tensor,
    share_C: Tensor,
    dual_lr: float | Tensor,
    lower_bound: float | Tensor,
    is_bound: bool,
) -> None:
    """One step of the duals, in place; those of lower bounds stay at 0 or above."""
    dual_C -= dual_lr * (share_C - lower_bound)
    if is_bound:
        dual_C.clamp_(min=0)


def mean_step(
    running_CD: Tensor,
    count_C: Tensor,
    size_C: Tensor,
    x_ND: Tensor,
    place_HN: Tensor,
    *,
    unit: bool,
) -> None:
    """One step of the running means, in place; of clusters that were hit alone.

    Computed is a row per cluster, or per sample and head, where those are fewer: shapes stay the
    same. Samples of one cluster write the same values.
    """
    place, x_RD = place_HN.flatten(), x_ND.repeat(len(place_HN), 1)
    sum_CD = sum_rows(x_RD, place, len(running_CD))
    if len(running_CD) <= len(place):
        count_C1, size_C1 = (x[:, None].to(x_ND.dtype) for x in (count_C, size_C))
        sum_CD.addcmul_(count_C1, running_CD).div_((count_C1 + size_C1).clamp_(min=1))
        mean_CD = normalize(sum_CD, dim=1) if unit else sum_CD
        torch.where(size_C1 > 0, mean_CD, running_CD, out=running_CD)
        count_C += size_C
        return
    count_R1, size_R1 = (x[place][:, None].to(x_ND.dtype) for x in (count_C, size_C))
    mean_RD = (count_R1 * running_CD[place]).add_(sum_CD[place]).div_(count_R1 + size_R1)
    running_CD[place] = normalize(mean_RD, dim=1) if unit else mean_RD
    count_C += size_C


def sum_rows(x_RD: Tensor, place_R: Tensor, num_clusters: int) -> Tensor:
    """Sum of the rows that go to each place, (C, D); in a fixed order, whatever the device."""
    total_CD = x_RD.new_zeros(num_clusters, x_RD.shape[1])
    if x_RD.device.type == 'cpu':
        return total_CD.index_add_(0, place_R, x_RD)
    # On CUDA, index_add_ adds in any order; this sorts first.
    return total_CD.index_put_((place_R,), x_RD, accumulate=True)
