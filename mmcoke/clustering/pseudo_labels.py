"""Tables of pseudo-labels: the state that CoKe, ODC and DeepCluster share."""

import torch
from torch import Tensor, nn

from .settings import check_number

UNASSIGNED = -1
"""Label of a sample that no clustering has seen yet."""

# 32760 = 2^3 * 3^2 * 5 * 7 * 13 is the largest int16 that 1, ..., 10 divide.
WEIGHT_SCALE = 32760

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def smallest_int_dtype(num_values: int) -> torch.dtype:
    """Smallest signed integer type that holds -1, 0, ..., ``num_values - 1``."""
    for dtype in (torch.int8, torch.int16, torch.int32):
        if num_values - 1 <= torch.iinfo(dtype).max:
            return dtype
    return torch.int64


def check_num_clusters(num_clusters: int, num_samples: int) -> None:
    """ValueError if there are more clusters than samples, or none."""
    check_number('num_samples', num_samples, '[1, inf)', whole=True)
    check_number('num_clusters', num_clusters, '[1, inf)', whole=True)
    if num_clusters > num_samples:
        raise ValueError(
            f'num_clusters={num_clusters} is more than the {num_samples} samples of the data '
            f'set. Choose num_clusters <= {num_samples} (a tenth of it or less is usual), or '
            'give more images.'
        )


def check_integers(name: str, x: Tensor, shape: torch.Size) -> None:
    """ValueError if a tensor has another shape, or no integers."""
    if x.shape != shape or x.dtype not in INTEGERS:
        raise ValueError(
            f'{name} must be integers of shape {tuple(shape)}, but are {x.dtype} of shape '
            f'{tuple(x.shape)}.'
        )


def check_range(name: str, x: Tensor, num_values: int, rule: str) -> None:
    """Refuse integers outside 0 ... ``num_values - 1``, which would wrap or count from the end.

    On a GPU, where looking would stall the stream, the device checks, and stops as it does for any
    index out of range.

    Raises:
        ValueError: on CPU, with what was found and the rule.
    """
    if not x.numel() or x.device.type not in ('cpu', 'cuda'):
        return
    low, high = (end.long() for end in x.aminmax())
    inside = (low >= 0) & (high < num_values)
    if x.device.type == 'cuda':
        torch._assert_async(inside, f'{name}: {rule}')
    elif not inside:
        raise ValueError(f'{name} runs from {low} to {high}, but {rule}')


def check_labels(label_N: Tensor, shape: torch.Size, num_clusters: int) -> None:
    """ValueError unless there is a label in 0 ... K - 1 for each sample; see check_range."""
    check_integers('Labels', label_N, shape)
    rule = f'labels of {num_clusters} clusters are 0 ... {num_clusters - 1}.'
    check_range('label', label_N, num_clusters, rule)


def check_indices(idx_N: Tensor, num_samples: int) -> None:
    """ValueError unless they are indices of samples (N,); values as for :func:`check_range`."""
    check_integers('Indices', idx_N, idx_N.shape[:1])
    rule = (
        f'the label table has {num_samples} samples. Is it the data set that training started with?'
    )
    check_range('sample_idx', idx_N, num_samples, rule)


def check_batch(x_ND: Tensor, idx_N: Tensor, dim: int, num_samples: int) -> None:
    """ValueError if a batch does not fit; values are looked at on CPU alone, not to stall a GPU."""
    if x_ND.ndim != 2 or x_ND.shape[1] != dim or idx_N.shape != x_ND.shape[:1]:
        raise ValueError(
            f'step() takes features (N, {dim}) and indices (N,), '
            f'but got {tuple(x_ND.shape)} and {tuple(idx_N.shape)}.'
        )
    if not len(x_ND):
        raise ValueError('step() got an empty batch.')
    check_indices(idx_N, num_samples)
    check_features(x_ND, dim)
    if x_ND.device.type == 'cpu' and not x_ND.isfinite().all():
        bad = idx_N[~x_ND.isfinite().all(1)]
        raise ValueError(
            f'The features of {len(bad)} of {len(x_ND)} samples are NaN or infinite '
            f'(sample_idx {bad[:5].tolist()}{", ..." if len(bad) > 5 else ""}). Nothing was '
            'clustered. Lower the learning rate, or check these images.'
        )


def check_features(x_ND: Tensor, dim: int) -> None:
    """ValueError unless they are floating-point numbers (N, D)."""
    if x_ND.ndim != 2 or x_ND.shape[1] != dim or not x_ND.is_floating_point():
        raise ValueError(
            f'Features must be floating-point numbers (N, {dim}), but are {x_ND.dtype} of shape '
            f'{tuple(x_ND.shape)}.'
        )


def last_of_equals(idx_N: Tensor) -> Tensor:
    """For every row, the position of the last row with the same value.

    A sample that a sampler's padding puts twice into a batch then gets one label, the same on every
    device and rank (writing to one place twice in a single indexed write has no defined order).

    Args:
        idx_N: indices, int64 (N,).

    Returns:
        Positions in 0 ... N - 1, int64 (N,).
    """
    sorted_N, order_N = idx_N.sort(stable=True)
    return order_N[torch.searchsorted(sorted_N, idx_N, right=True) - 1]


class PseudoLabels(nn.Module):
    """One pseudo-label per sample, indexed by ``sample_idx``.

    The table is a buffer of the model: it is saved and resumed with it, works with any data set,
    and no data-loader worker can hold a stale copy.

    Args:
        num_samples: A, number of samples in the data set.
        num_clusters: K, number of clusters.

    Raises:
        ValueError: if one of them is not a whole number of at least 1. Reads and writes raise it
            for tensors of another type or shape and, on CPU, for values out of range; on a GPU the
            device stops at those, so that no iteration waits for it.
    """

    label: Tensor

    def __init__(self, num_samples: int, num_clusters: int) -> None:
        super().__init__()
        check_number('num_samples', num_samples, '[1, inf)', whole=True)
        check_number('num_clusters', num_clusters, '[1, inf)', whole=True)
        self.num_samples, self.num_clusters = num_samples, num_clusters
        dtype = smallest_int_dtype(num_clusters)
        self.register_buffer('label', torch.full((num_samples,), UNASSIGNED, dtype=dtype))

    @torch.no_grad()
    def read(self, idx_N: Tensor) -> Tensor:
        """Labels of some samples, int64 (N,); ``UNASSIGNED`` where none was written."""
        check_indices(idx_N, self.num_samples)
        return self.label[idx_N.long()].long()

    @torch.no_grad()
    def write(self, idx_N: Tensor, label_N: Tensor) -> Tensor:
        """Store labels.

        Args:
            idx_N: indices of the samples, int64 (N,). Of equal indices, the last row counts.
            label_N: new labels in 0 ... K - 1, int64 (N,).

        Returns:
            Share of the rows whose label changed (a first label is a change), a scalar tensor.
        """
        check_indices(idx_N, self.num_samples)
        check_labels(label_N, idx_N.shape, self.num_clusters)
        idx_N = idx_N.long()
        label_N = label_N[last_of_equals(idx_N)].to(self.label.dtype)
        changed = (self.label[idx_N] != label_N).float().mean()
        self.label[idx_N] = label_N
        return changed

    @torch.no_grad()
    def assign_all(self, label_A: Tensor) -> None:
        """Store the labels of all samples, integers (A,) in 0 ... K - 1."""
        check_labels(label_A, self.label.shape, self.num_clusters)
        self.label.copy_(label_A)

    @torch.no_grad()
    def forget(self, idx_N: Tensor) -> None:
        """Make samples (N,) ``UNASSIGNED``."""
        self.label[idx_N] = UNASSIGNED

    @torch.no_grad()
    def sizes(self) -> Tensor:
        """Number of samples per cluster, int64 (K,); samples without a label count nowhere."""
        # One bin more, in front, for UNASSIGNED: no boolean mask, no copy of the table as int64.
        sizes = torch.zeros(self.num_clusters + 1, dtype=torch.int64, device=self.label.device)
        for label in self.label.split(1 << 22):
            sizes += torch.bincount(label.int() + 1, minlength=self.num_clusters + 1)
        return sizes[1:]

    def extra_repr(self) -> str:
        return f'num_samples={self.num_samples}, num_clusters={self.num_clusters}'


class AveragedPseudoLabels(nn.Module):
    """A weighted average of the labels that a sample has had, with at most S of them.

    Stage 2 of single-view CoKe (Qian et al., CVPR 2022): the t-th label enters with
    weight 1/t, the older ones shrink by 1 - 1/t. If all S slots are taken, the new label replaces
    the one with the least weight and the weight of that one goes to the others, in proportion.
    Targets are softened by exp(weight / temperature) over the occupied slots.

    Slots are ordered from the newest label to the least recently used. Weights are stored as
    multiples of 1/32760, in 2 bytes: that is exact for the averages of up to 10 labels, and off by
    1.5e-5 at most in each later write; three tables for ImageNet-1k and S = 5 take 77 MB instead of
    262.

    Two deviations from the published code: empty slots are inert (there they point to cluster 1,
    which splits the weight of samples that carry it), and of several slots with the least
    weight the least recently used is replaced (there the first, up to rounding).

    Args:
        num_samples: A, number of samples in the data set.
        num_clusters: K, number of clusters.
        num_slots: S, number of labels kept per sample.
        temperature: softens the targets; larger is closer to uniform over the slots.

    Raises:
        ValueError: if a setting is out of its range; else as :class:`PseudoLabels`.
    """

    WEIGHT_SCALE = WEIGHT_SCALE

    older: Tensor
    weight: Tensor

    def __init__(
        self, num_samples: int, num_clusters: int, num_slots: int = 5, temperature: float = 0.5
    ) -> None:
        super().__init__()
        check_number('num_slots', num_slots, '[1, inf)', whole=True)
        check_number('temperature', temperature, '(0, inf)')
        self.num_slots, self.temperature = num_slots, temperature
        self.newest = PseudoLabels(num_samples, num_clusters)
        older = self.newest.label[:, None].repeat(1, num_slots - 1)
        self.register_buffer('older', older)
        weight = torch.zeros(num_samples, num_slots, dtype=torch.int16)
        self.register_buffer('weight', weight)

    @property
    def num_samples(self) -> int:
        return self.newest.num_samples

    @property
    def num_clusters(self) -> int:
        return self.newest.num_clusters

    @torch.no_grad()
    def read(self, idx_N: Tensor) -> Tensor:
        """Soft targets, float32 (N, K), rows sum to 1.

        A sample with a newest label but no average yet counts as that label alone; the row of
        a sample without any label is 0.
        """
        label_NS, weight_NS = self._slots(idx_N)
        share_NS = label_shares(label_NS, weight_NS, self.temperature)
        return dense_targets(label_NS, share_NS, self.num_clusters)

    def _slots(self, idx_N: Tensor) -> tuple[Tensor, Tensor]:
        newest_N = self.newest.read(idx_N)
        return slots(newest_N, self.older[idx_N], self.weight[idx_N])

    @torch.no_grad()
    def write(self, idx_N: Tensor, label_N: Tensor, step: int) -> None:
        """Average one more label in.

        Args:
            idx_N: indices of the samples, int64 (N,). Of equal indices, the last row counts.
            label_N: new labels in 0 ... K - 1, int64 (N,).
            step: t = 1, 2, ..., the number of this label; 1 forgets all labels before.

        Raises:
            ValueError: if ``step`` is below 1; else as :class:`PseudoLabels`.
        """
        check_number('step', step, '[1, inf)', whole=True, hint='It counts labels from 1.')
        check_indices(idx_N, self.num_samples)
        check_labels(label_N, idx_N.shape, self.num_clusters)
        idx_N = idx_N.long()
        label_N = label_N[last_of_equals(idx_N)]
        older_NS, weight_NS = averaged(*self._slots(idx_N), label_N, 1 / step)
        self.newest.write(idx_N, label_N)
        self.older[idx_N] = older_NS.to(self.older.dtype)
        self.weight[idx_N] = weight_NS

    def sizes(self) -> Tensor:
        """Number of samples per cluster by their newest label, int64 (K,)."""
        return self.newest.sizes()

    def extra_repr(self) -> str:
        return f'num_slots={self.num_slots}, temperature={self.temperature}'


# ---- averages of labels: of one clustering (N, S) or of several (H, N, S)


def slots(newest_N: Tensor, older_NS: Tensor, weight_NS: Tensor) -> tuple[Tensor, Tensor]:
    """Labels, int64 (..., N, S), and weights, float32 with sum 1 or, if never written, 0.

    Args:
        newest_N: newest labels, int64 (..., N).
        older_NS: the labels before (..., N, S - 1).
        weight_NS: weights as they are stored (..., N, S).
    """
    label_NS = torch.cat([newest_N[..., None], older_NS.long()], -1)
    weight_NS = weight_NS.float()
    return label_NS, weight_NS / weight_NS.sum(-1, keepdim=True).clamp(min=1)


def label_shares(label_NS: Tensor, weight_NS: Tensor, temperature: float) -> Tensor:
    """Share of each slot in the target of its sample, float32 (..., N, S); sums are 1.

    A sample without any average counts as its newest label; without that, as nothing.
    """
    # The largest is taken off first: the shares are the same, and exp cannot overflow. At the
    # least temperature that float32 can divide by, all but the largest vanish anyway.
    largest_N1 = weight_NS.amax(-1, keepdim=True)
    least = torch.finfo(weight_NS.dtype).tiny
    share_NS = ((weight_NS - largest_N1) / max(temperature, least)).exp_().mul_(weight_NS > 0)
    share_NS /= share_NS.sum(-1, keepdim=True).clamp_(min=1)
    share_NS[..., 0] += (largest_N1[..., 0] == 0) & (label_NS[..., 0] != UNASSIGNED)
    return share_NS


def dense_targets(place_NS: Tensor, share_NS: Tensor, num_clusters: int) -> Tensor:
    """Shares (N, S) at their clusters, float32 (N, K)."""
    # Empty slots add 0 to cluster 0; the labels of occupied ones differ: one writer per place.
    target_NK = share_NS.new_zeros(len(share_NS), num_clusters)
    return target_NK.scatter_add_(1, place_NS.clamp(min=0), share_NS)


def averaged(
    label_NS: Tensor, weight_NS: Tensor, label_N: Tensor, factor: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Slots of samples after one more label.

    Args:
        label_NS, weight_NS: of :func:`slots`.
        label_N: new labels, int64 (..., N).
        factor: 1/t, weight of the new label; a scalar tensor where it changes in a CUDA graph.

    Returns:
        The labels behind the new one (..., N, S - 1), and weights as they are stored (..., N, S).
    """
    num_slots, device = label_NS.shape[-1], label_NS.device
    # The new label's own slot if it has one, else the last of the slots with the least weight.
    same_NS = (label_NS == label_N[..., None]) & (weight_NS > 0)
    least_N = num_slots - 1 - weight_NS.flip(-1).argmin(-1)
    slot_N = torch.where(same_NS.any(-1), same_NS.int().argmax(-1), least_N)
    own_N = (weight_NS * same_NS).sum(-1)

    # All slots but that one, in their order; the new label goes in front.
    others_S = torch.arange(num_slots - 1, device=device)
    others_NS = others_S + (others_S >= slot_N[..., None])
    older_NS, weight_NS = label_NS.gather(-1, others_NS), weight_NS.gather(-1, others_NS)
    kept_N = own_N + weight_NS.sum(-1)
    factor_N = torch.where(kept_N > 0, factor, torch.ones((), device=device))
    shrink_N = (1 - factor_N) / torch.where(kept_N > 0, kept_N, 1.0)
    first_N1 = (own_N * shrink_N + factor_N)[..., None]
    weight_NS = torch.cat([first_N1, weight_NS * shrink_N[..., None]], -1)
    return older_NS, (weight_NS * WEIGHT_SCALE).round().to(torch.int16)
