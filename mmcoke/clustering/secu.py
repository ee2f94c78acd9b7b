"""SeCu: centers learned by SGD, samples assigned under a constraint on sizes or on entropy."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from .heads import Heads, Rule, several
from .online_kmeans import (
    NUM_SIMILARITIES,
    blockwise_argmax,
    cluster_sizes,
    dual_step,
    sum_rows,
)
from .precision import float32_no_grad
from .pseudo_labels import (
    UNASSIGNED,
    PseudoLabels,
    check_batch,
    check_num_clusters,
    last_of_equals,
)
from .settings import SEED_RANGE, check_number

CONSTRAINTS = ('size', 'entropy')


class SeCuLabeler(nn.Module):
    r"""Gives each sample the label of the last epoch as its target; learns the centers by SGD.

    A clustering head of SeCu (Qian, "Stable Cluster Discrimination for Deep Clustering", ICCV
    2023). With unit vectors x of V views, similarities :math:`s_{vk} = x_v \cdot \hat w_k` to the
    normalized centers, and :math:`\bar s` their mean over the views, a step is:

    - assign: :math:`\arg\max_k \bar s_k + \rho_k`, with the duals :math:`\rho` of a lower bound of
      sizes as in CoKe; or :math:`\arg\max_k \bar s_k - \alpha \Delta_k`, where :math:`\Delta_k` is
      the change of the negative entropy of all labels by this assignment
    - duals as in CoKe, or counts of the labels
    - centers: one step of SGD on the mean over views and samples of
      :math:`\mathrm{CE}(s_v / T_c, y)`, y the label just assigned, in which the other clusters'
      logits are held fixed: so a center is pulled by its own samples, the more the less sure they
      are, and pushed away by none.

    In an epoch: :meth:`set_epoch`, :meth:`step` for every global batch, :meth:`end_epoch`. The loss
    of the features uses ``centers``, published (normalized) when the last epoch ended, with the
    returned target. All processes must get the same global batches; they then hold the same
    buffers, bit for bit. A sample without a label gets the one just assigned.

    With a list of numbers of clusters it makes a :class:`SeCuHeads`. The centers' loss is then the
    mean over the heads, as published: their gradient is divided by the number of heads.

    Args:
        num_samples: A, number of samples in the data set.
        num_clusters: K, at most ``num_samples``; or a list, one number per head.
        dim: D, dimension of the vectors.
        min_ratio: lower bound of a cluster's size as a share of A / K, in (0, 1]; 1 balances.
        dual_lr: step size of the duals. Both are of the constraint 'size'.
        constraint: 'size' or 'entropy'.
        alpha: :math:`\alpha`, weight of the entropy.
        center_lr, momentum, weight_decay: of the SGD, as torch's.
        trust_coefficient: :math:`\tau`; with it the step is that of LARS, as published for
            ImageNet: a head's gradient, decay included, is scaled by :math:`\tau \|w\| / \|g\|`.
        center_temperature: :math:`T_c`.
        seed: of the first centers; the heads of a list take seed, seed + 1, ...

    Attributes:
        weight: the learned centers (K, D), not normalized.
        velocity: their momentum buffer (K, D).
        centers: published (K, D).
        dual: (K,), with the constraint 'size'.
        count: samples per cluster by their newest label, int64 (K,).

    Raises:
        ValueError: if an argument is out of its range, or there are more clusters than samples.
    """

    weight: Tensor
    velocity: Tensor
    centers: Tensor
    count: Tensor

    def __new__(cls, num_samples: int = 0, num_clusters: Any = 0, *args, **kwargs) -> 'SeCuLabeler':
        together = several(num_clusters) and cls is SeCuLabeler
        return super().__new__(SeCuHeads if together else cls)

    def __init__(
        self,
        num_samples: int,
        num_clusters: int,
        dim: int,
        *,
        min_ratio: float = 0.9,
        dual_lr: float = 0.1,
        constraint: str = 'size',
        alpha: float = 6000.0,
        center_lr: float = 1.2,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        trust_coefficient: float | None = None,
        center_temperature: float = 0.05,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_num_clusters(num_clusters, num_samples)
        check_number('dim', dim, '[1, inf)', whole=True)
        self.num_clusters, self.dim = num_clusters, dim
        self.min_ratio, self.dual_lr = min_ratio, dual_lr
        self.constraint, self.alpha = constraint, alpha
        self.center_lr, self.momentum, self.weight_decay = center_lr, momentum, weight_decay
        self.trust_coefficient, self.center_temperature = trust_coefficient, center_temperature
        check_settings({**vars(self), 'seed': seed})
        self.labels = PseudoLabels(num_samples, num_clusters)
        self._make_buffers(seed)

    def _make_buffers(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        weight = normalize(torch.randn(self.num_clusters, self.dim, generator=generator), dim=1)
        self.register_buffer('weight', weight)
        self.register_buffer('velocity', torch.zeros_like(weight))
        self.register_buffer('centers', weight.clone())
        dual = torch.zeros(self.num_clusters) if self.constraint == 'size' else None
        self.register_buffer('dual', dual)
        # What the table of labels says, kept along within an epoch: not saved.
        count = torch.zeros(self.num_clusters, dtype=torch.int64)
        self.register_buffer('count', count, persistent=False)
        # Share of labels that changed, summed over the batches of the epoch, and their number.
        self.register_buffer('_changed', torch.zeros(2), persistent=False)
        self.register_buffer('_center_loss', torch.zeros(()), persistent=False)

    @property
    def lower_bound(self) -> float:
        """Lower bound of the size of a cluster, as a share of all samples; 0 without one."""
        return self.min_ratio / self.num_clusters if self.constraint == 'size' else 0.0

    @property
    def min_size(self) -> float:
        """Lower bound of the size of a cluster, in samples."""
        return self.lower_bound * self.labels.num_samples

    @property
    def center_loss(self) -> Tensor:
        """The centers' loss in the last step, a scalar tensor."""
        return self._center_loss

    @float32_no_grad
    def step(self, x_VND: Tensor, idx_N: Tensor, own: slice = slice(None)) -> Tensor:
        """Target of each sample from the last epoch; then cluster the batch, and move the centers.

        Args:
            x_VND: L2-normalized features of the views of the global batch (V, N, D), the same on
                every process.
            idx_N: the samples' ``sample_idx``, int64 (N,).
            own: the n rows whose targets are wanted, those of this process; all by default.

        Returns:
            Labels, int64 (n,).

        Raises:
            ValueError: if shapes do not agree, an index is not in the data set, or (on CPU; on an
                accelerator :meth:`end_epoch` does so, not to stall every iteration) a feature is
                not finite.
        """
        check_views(x_VND, idx_N, self.dim, self.labels.num_samples)
        rule = Rule([self.num_clusters], self.dual_lr, self.lower_bound)
        return step(buffers_of(self), rule, self, x_VND, idx_N.long(), own)[0]

    @torch.no_grad()
    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch, numbered from 0, which is trained against the centers of now."""
        check_number('epoch', epoch, '[0, inf)', whole=True)
        self.centers.copy_(normalize(self.weight, dim=1))
        self._changed.zero_()
        self.continue_epoch(epoch)

    def continue_epoch(self, epoch: int) -> None:
        """Go on within an epoch whose state was loaded, instead of :meth:`set_epoch`."""
        self.count.copy_(self.labels.sizes())

    @torch.no_grad()
    def end_epoch(self) -> None:
        """Publish the centers that the next epoch is trained against.

        Raises:
            ValueError: if there was no batch, or the features were not finite.
        """
        if not self.count.any():
            raise ValueError(
                'The epoch ended without any batch. Is the data set smaller than one batch while '
                'drop_last=True? Use a smaller batch_size or more images.'
            )
        if not self.weight.isfinite().all():
            raise ValueError(
                'The cluster centers are not finite: the features were NaN or infinite, or '
                'center_lr is too high. Lower the learning rates, or check the images; then resume '
                'from the last checkpoint, which is older than this epoch.'
            )
        self.centers.copy_(normalize(self.weight, dim=1))

    def sizes(self) -> Tensor:
        """Number of samples per cluster by their newest label, int64 (K,)."""
        return self.labels.sizes()

    def changed(self) -> Tensor:
        """Share of samples whose label changed in this epoch so far, a scalar tensor."""
        return self._changed[0] / self._changed[1].clamp(min=1)

    def extra_repr(self) -> str:
        names = ('num_clusters', 'dim', 'constraint', 'min_ratio', 'dual_lr', 'alpha', 'center_lr')
        return ', '.join(f'{name}={getattr(self, name)!r}' for name in names)


RANGES = dict(
    min_ratio='(0, 1]',
    dual_lr='[0, inf)',
    alpha='[0, inf)',
    center_lr='[0, inf)',
    momentum='[0, 1)',
    weight_decay='[0, inf)',
    center_temperature='(0, inf)',
    seed=SEED_RANGE,
)


def check_settings(settings: dict) -> None:
    """ValueError if one of a labeler's settings that are there is out of its range."""
    for name, within in RANGES.items():
        if name in settings:
            check_number(name, settings[name], within, whole=name == 'seed')
    if (coefficient := settings.get('trust_coefficient')) is not None:
        check_number('trust_coefficient', coefficient, '(0, inf)')
    constraint = settings.get('constraint', 'size')
    if constraint not in CONSTRAINTS:
        raise ValueError(f"constraint must be 'size' or 'entropy', but is {constraint!r}.")


class SeCuHeads(Heads, SeCuLabeler):
    """Several clusterings of the same features in one pass: ``SeCuLabeler(A, [K, ...], D)``.

    Verbs and results are those of one :class:`SeCuLabeler` per head, in lists; see :class:`Heads`.
    A head alone equals one of H together if it is given ``center_lr / H`` and ``weight_decay * H``.
    """

    labeler = SeCuLabeler

    @property
    def centers(self) -> list[Tensor]:
        """The published centers (K, D) of each head."""
        return [head.centers for head in self]

    @property
    def center_loss(self) -> Tensor:
        """Mean over the heads of the centers' loss in the last step, a scalar tensor."""
        return self._joint.loss_H.mean()

    @float32_no_grad
    def step(self, x_VND: Tensor, idx_N: Tensor, own: slice = slice(None)) -> list[Tensor]:
        """As :meth:`SeCuLabeler.step`; labels int64 (n,) of each head."""
        first = self[0]
        check_views(x_VND, idx_N, first.dim, first.labels.num_samples)
        return step(self._joint, self._rule(), first, x_VND, idx_N.long(), own)

    def buffers_of(self, head: SeCuLabeler) -> 'Buffers':
        return buffers_of(head)

    def put_buffers(self, head: SeCuLabeler, part: 'Buffers') -> None:
        head.weight, head.velocity, head.centers = part.weight_CD, part.velocity_CD, part.centers_CD
        head.dual, head.count = part.dual_C, part.count_C
        head.labels.label, head._changed = part.label_HA[0], part.changed_H2[0]
        head._center_loss = part.loss_H[0]


class Buffers(NamedTuple):
    """State of H heads with C clusters in all and A samples."""

    weight_CD: Tensor
    velocity_CD: Tensor
    centers_CD: Tensor
    count_C: Tensor
    label_HA: Tensor
    changed_H2: Tensor
    loss_H: Tensor
    dual_C: Tensor | None = None


def buffers_of(head: SeCuLabeler) -> Buffers:
    """Those of one head, with H = 1; views."""
    return Buffers(
        head.weight,
        head.velocity,
        head.centers,
        head.count,
        head.labels.label[None],
        head._changed[None],
        head._center_loss[None],
        head.dual,
    )


def check_views(x_VND: Tensor, idx_N: Tensor, dim: int, num_samples: int) -> None:
    """ValueError if a batch does not fit; see :func:`check_batch`."""
    if x_VND.ndim != 3 or not len(x_VND) or not x_VND.is_floating_point():
        raise ValueError(
            f'step() takes features (views, N, {dim}), but got {x_VND.dtype} of shape '
            f'{tuple(x_VND.shape)}.'
        )
    check_batch(x_VND.sum(0), idx_N, dim, num_samples)


def step(
    state: Buffers, rule: Rule, first: SeCuLabeler, x_VND: Tensor, idx_N: Tensor, own: slice
) -> list[Tensor]:
    """One step of all heads; see :meth:`SeCuLabeler.step`.

    Nothing here waits for the device, or has a shape that depends on values.

    Args:
        state: is changed.
        rule: see there.
        first: of the heads; they agree in all other settings.
        x_VND, idx_N, own: see there.
    """
    previous_HN = state.label_HA.index_select(1, idx_N).long()
    unit_CD = normalize(state.weight_CD, dim=1)
    if state.dual_C is None:
        push_NC = -first.alpha * entropy_change(state.count_C, previous_HN, rule)
    else:
        push_NC = state.dual_C.expand(len(idx_N), -1)
    label_HN, loss_HVN = assign(x_VND, unit_CD, push_NC, rule.sizes, first.center_temperature)
    place_HN = label_HN + rule.first_H1
    if state.dual_C is not None:
        share_C = cluster_sizes(place_HN, len(unit_CD)) / len(idx_N)
        dual_step(state.dual_C, share_C, rule.dual_lr, rule.lower_bound, first.min_ratio < 1)

    grad_CD = center_gradient(x_VND, loss_HVN, place_HN, len(unit_CD)) / first.center_temperature
    center_step(state, grad_CD, unit_CD, rule.sizes, first)
    state.loss_H.copy_(loss_HVN.mean((1, 2)))

    write(state, rule, idx_N, label_HN)
    changed_H = (previous_HN != label_HN).float().mean(1)
    state.changed_H2.add_(torch.stack([changed_H, torch.ones_like(changed_H)], 1))
    previous_Hn, label_Hn = previous_HN[:, own], label_HN[:, own]
    return list(torch.where(previous_Hn == UNASSIGNED, label_Hn, previous_Hn))


def assign(
    x_VND: Tensor, unit_CD: Tensor, push_NC: Tensor, sizes: list[int], temperature: float
) -> tuple[Tensor, Tensor]:
    """Cluster of each sample by mean similarity plus a push, and its cross-entropy in each view.

    One product over the clusters of all heads. Of equally good clusters the first counts.

    Returns:
        int64 (H, N), and float32 (H, V, N).
    """
    on_cpu = x_VND.device.type == 'cpu'
    rows = max(NUM_SIMILARITIES // push_NC.shape[1] // len(x_VND), 1) if on_cpu else len(push_NC)
    find = blockwise_argmax if on_cpu else Tensor.argmax
    labels, losses = [], []
    for x_VnD, push_nC in zip(x_VND.split(rows, 1), push_NC.split(rows), strict=True):
        similarity_VnC = (x_VnD.flatten(0, 1) @ unit_CD.T).view(*x_VnD.shape[:2], -1)
        score_nC = similarity_VnC.mean(0).add_(push_nC)
        label_Hn = torch.stack([find(part, 1) for part in score_nC.split(sizes, 1)])
        parts = zip(similarity_VnC.div_(temperature).split(sizes, 2), label_Hn, strict=True)
        losses.append(torch.stack([cross_entropy(*part) for part in parts]))
        labels.append(label_Hn)
    return torch.cat(labels, 1), torch.cat(losses, 2)


def cross_entropy(logit_VnK: Tensor, label_n: Tensor) -> Tensor:
    """Of the label in each view (V, n)."""
    chosen_Vn1 = logit_VnK.gather(2, label_n.expand(len(logit_VnK), -1)[..., None])
    return logit_VnK.logsumexp(2) - chosen_Vn1[..., 0]


def entropy_change(count_C: Tensor, previous_HN: Tensor, rule: Rule) -> Tensor:
    r"""How the negative entropy of the labels grows if a sample is put into a cluster (N, C).

    Up to a number that is the same for all clusters of a head. With :math:`c_k` of the other B - 1
    samples in cluster k, :math:`\sum_j p_j \log p_j` at :math:`p_j = c_j / B` grows by
    :math:`((c_k + 1) \log(c_k + 1) - c_k \log c_k - \log B) / B`. The published code subtracts two
    entropies; here no digits cancel.

    Args:
        count_C: samples in each cluster, the sample itself among them if it has a label.
        previous_HN: its labels.
        rule: of the clusters.
    """
    is_old_HN = previous_HN != UNASSIGNED
    others_C = count_C.float()
    place_HN = previous_HN.clamp(min=0) + rule.first_H1
    own_HN = others_C[place_HN] - is_old_HN.float()
    change_NC = growth(others_C).repeat(previous_HN.shape[1], 1)
    change_NC.scatter_(1, place_HN.T, growth(own_HN).T)
    others_N = others_C[: rule.sizes[0]].sum() - is_old_HN[0].float()
    return change_NC / (others_N + 1)[:, None]  # all heads have labelled the same samples


def growth(count: Tensor) -> Tensor:
    """``(c + 1) log(c + 1) - c log c``."""
    return torch.log1p(count) + count * torch.log1p(1 / count.clamp(min=1))


def center_gradient(x_VND: Tensor, loss_HVN: Tensor, place_HN: Tensor, num_clusters: int) -> Tensor:
    """Gradient of the mean cross-entropy by the normalized centers, times the temperature (C, D).

    That by the logit of the label is the label's probability minus 1, which the loss tells.
    """
    pull_HND = torch.einsum('hvn,vnd->hnd', torch.expm1(-loss_HVN), x_VND) / loss_HVN.numel()
    return sum_rows(pull_HND.flatten(0, 1), place_HN.flatten(), num_clusters)


def center_step(
    state: Buffers, grad_CD: Tensor, unit_CD: Tensor, sizes: list[int], settings: SeCuLabeler
) -> None:
    """One step of the centers, in place, as torch's SGD; or as LARS.

    Args:
        state: is changed.
        grad_CD: of the loss by the normalized centers.
        unit_CD: these.
        sizes: K of each head.
        settings: of the step.
    """
    length_C1 = state.weight_CD.norm(dim=1, keepdim=True).clamp_(min=1e-12)  # as normalize()
    along_C1 = (unit_CD * grad_CD).sum(1, keepdim=True)
    grad_CD = (grad_CD - unit_CD * along_C1) / length_C1
    grad_CD.add_(state.weight_CD, alpha=settings.weight_decay)
    if settings.trust_coefficient is not None:
        for weight, grad in zip(state.weight_CD.split(sizes), grad_CD.split(sizes), strict=True):
            ratio = settings.trust_coefficient * weight.norm() / grad.norm()
            grad.mul_(torch.where(ratio.isfinite() & (ratio > 0), ratio, 1.0))
    state.velocity_CD.mul_(settings.momentum).add_(grad_CD)
    state.weight_CD.sub_(state.velocity_CD, alpha=settings.center_lr)


def write(state: Buffers, rule: Rule, idx_N: Tensor, label_HN: Tensor) -> None:
    """Store new labels, and count them; of equal indices the last row counts."""
    last_N = last_of_equals(idx_N)
    once_HN = (last_N == torch.arange(len(idx_N), device=idx_N.device)).expand_as(label_HN).long()
    old_HN = state.label_HA.index_select(1, idx_N).long()
    old_place_HN = old_HN.clamp(min=0) + rule.first_H1
    new_place_HN = label_HN + rule.first_H1
    state.count_C.scatter_add_(0, old_place_HN.flatten(), -(once_HN * (old_HN >= 0)).flatten())
    state.count_C.scatter_add_(0, new_place_HN.flatten(), once_HN.flatten())
    state.label_HA.index_copy_(1, idx_N, label_HN[:, last_N].to(state.label_HA.dtype))
