"""CoKe's order of reads and writes, for one clustering or for several at once."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from .heads import Heads, Rule, several
from .kmeans import KMeansResult, kmeans
from .online_kmeans import (
    OnlineConstrainedKMeans,
    cluster_sizes,
    dual_step,
    mean_step,
    most_similar,
)
from .precision import float32_no_grad
from .pseudo_labels import (
    UNASSIGNED,
    AveragedPseudoLabels,
    PseudoLabels,
    averaged,
    check_batch,
    check_num_clusters,
    dense_targets,
    label_shares,
    last_of_equals,
    slots,
)
from .settings import check_number


class CoKeLabeler(nn.Module):
    """Gives each sample the label of the last epoch as its target, and clusters along.

    A clustering head of CoKe (Qian et al., CVPR 2022). In an epoch:
    :meth:`set_epoch`, :meth:`step` for every global batch, :meth:`end_epoch`. The loss uses
    ``kmeans.centers`` (published at the end of the last epoch) with the returned target, so
    features, centers and targets agree.

    A sample without a label (first epoch, or left out so far) gets the one just assigned. The
    centers of the first epoch are random, so its learning rate must be 0: that is up to the recipe.

    With a list of numbers of clusters it makes a :class:`CoKeHeads`, which clusters for all of them
    at once; with a list of dimensions as well, a :class:`NestedHeads`.

    Args:
        num_samples: A, number of samples in the data set.
        num_clusters: K, at most ``num_samples``; or a list, one number per head.
        dim: D, dimension of the features.
        min_ratio, dual_lr, average_from_epoch, repulsion, seed: see
            :class:`OnlineConstrainedKMeans`; the heads of a list take seed, seed + 1, ...
        num_slots, label_temperature: see :class:`AveragedPseudoLabels`; used with
            ``average_from_epoch`` only.

    Raises:
        ValueError: if an argument is out of its range, or there are more clusters than samples.
    """

    def __new__(
        cls, num_samples: int = 0, num_clusters: Any = 0, dim: Any = 0, **settings
    ) -> 'CoKeLabeler':
        if cls is CoKeLabeler and several(num_clusters):
            cls = NestedHeads if several(dim) else CoKeHeads
        return super().__new__(cls)

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
        repulsion: float = 0.0,
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
            repulsion=repulsion,
            seed=seed,
        )
        if average_from_epoch is None:
            self.labels = PseudoLabels(num_samples, num_clusters)
        else:
            self.labels = AveragedPseudoLabels(
                num_samples, num_clusters, num_slots, label_temperature
            )
        self.seed = seed
        # Share of labels that changed, summed over the batches of the epoch, and their number.
        self.register_buffer('_changed', torch.zeros(2), persistent=False)
        # 1/t, the weight of a new label: a tensor, because it changes within a CUDA graph.
        self.register_buffer('_new_weight', torch.ones(()), persistent=False)

    @property
    def newest(self) -> PseudoLabels:
        """The table of the labels assigned last."""
        return getattr(self.labels, 'newest', self.labels)

    @property
    def num_clusters(self) -> int:
        """K."""
        return self.kmeans.num_clusters

    @property
    def dual_lr(self) -> float:
        """Step size of the duals; may be set."""
        return self.kmeans.dual_lr

    @dual_lr.setter
    def dual_lr(self, dual_lr: float) -> None:
        self.kmeans.dual_lr = dual_lr

    @property
    def lower_bound(self) -> float:
        """Lower bound of the size of a cluster, as a share of all samples."""
        return self.kmeans.min_ratio / self.kmeans.num_clusters

    @property
    def min_size(self) -> float:
        """Lower bound of the size of a cluster, in samples."""
        return self.lower_bound * self.newest.num_samples

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
        rule = Rule([self.num_clusters], self.dual_lr, self.lower_bound)
        return step(buffers_of(self), rule, self, x_ND, idx_N.long(), own)[0]

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch, numbered from 0."""
        self.kmeans.set_epoch(epoch)
        self._changed.zero_()
        self._new_weight.fill_(1 / max(self.kmeans.average_step, 1))

    def continue_epoch(self, epoch: int) -> None:
        """Go on within an epoch whose state was loaded, instead of :meth:`set_epoch`."""
        self.kmeans.continue_epoch(epoch)
        self._new_weight.fill_(1 / max(self.kmeans.average_step, 1))

    def end_epoch(self) -> None:
        """Publish the centers; raises ValueError as :meth:`OnlineConstrainedKMeans.end_epoch`."""
        self.kmeans.end_epoch()

    def cluster(
        self, x_AD: Tensor, progress: Callable[[Iterable], Iterable] = iter
    ) -> KMeansResult:
        """Spherical k-means of features of all samples (A, D), for :meth:`start_from`.

        Raises:
            ValueError: as :func:`kmeans`.
        """
        x_AD = normalize(x_AD[:, : self.kmeans.dim].float(), dim=1)
        options = dict(spherical=True, seed=self.seed % 2**32, progress=progress)
        return kmeans(x_AD, self.num_clusters, **options)

    @torch.no_grad()
    def start_from(self, label_A: Tensor, centers_KD: Tensor) -> None:
        """Take labels and centers of another clustering over; duals are 0 again.

        Between two epochs, after :meth:`end_epoch`. Not in the published method, whose first labels
        are those of an epoch at learning rate 0.

        Args:
            label_A: label of each sample in 0 ... K - 1, integers (A,).
            centers_KD: unit vectors (K, D).
        """
        self.newest.assign_all(label_A)
        self.kmeans.centers.copy_(centers_KD)
        self.kmeans.running.copy_(centers_KD)
        self.kmeans.dual.zero_()

    def sizes(self) -> Tensor:
        """Number of samples per cluster by their newest label, int64 (K,)."""
        return self.newest.sizes()

    def changed(self) -> Tensor:
        """Share of samples whose label changed in this epoch so far, a scalar tensor."""
        return self._changed[0] / self._changed[1].clamp(min=1)

    @property
    def phase(self) -> int:
        """What a step does: 0 in stage 1, 1 in the first epoch of stage 2, 2 afterwards.

        Within a phase all steps run the same operations on the same buffers, so one that is
        captured in a CUDA graph can be replayed.
        """
        return min(self.kmeans.average_step, 2)


class CoKeHeads(Heads, CoKeLabeler):
    """Several clusterings of the same features in one pass: ``CoKeLabeler(A, [K, ...], D)``.

    Verbs and results are those of one :class:`CoKeLabeler` per head, in lists: one product over the
    centers of all heads, one step of their duals, one of their means. Each head is there as a
    ``CoKeLabeler``, by its number or in a loop. See :class:`Heads`.
    """

    labeler = CoKeLabeler

    @property
    def centers(self) -> list[Tensor]:
        """The published centers (K, D) of each head."""
        return [head.kmeans.centers for head in self]

    @float32_no_grad
    def step(self, x_ND: Tensor, idx_N: Tensor, own: slice = slice(None)) -> list[Tensor]:
        """As :meth:`CoKeLabeler.step`; one target per head.

        Raises:
            ValueError: also if the heads were told different epochs.
        """
        first = self[0]
        check_batch(x_ND, idx_N, first.kmeans.dim, first.newest.num_samples)
        if len({head.kmeans.average_step for head in self}) > 1:
            raise ValueError('The heads are in different epochs: call set_epoch() of all of them.')
        return step(self._joint, self._rule(), first, x_ND, idx_N.long(), own)

    @property
    def phase(self) -> tuple[int, ...]:
        """Of each head; see :attr:`CoKeLabeler.phase`."""
        return tuple(head.phase for head in self)

    def buffers_of(self, head: CoKeLabeler) -> 'Buffers':
        return buffers_of(head)

    def put_buffers(self, head: CoKeLabeler, part: 'Buffers') -> None:
        put_buffers(head, part)


class NestedHeads(CoKeHeads):
    """Clusterings of the first dimensions of the features: ``CoKeLabeler(A, [K, ...], [D, ...])``.

    As in Matryoshka representations (Kusupati et al., NeurIPS 2022), so that the first dimensions
    are features of their own. Head h clusters the first D_h dimensions, L2-normalized again; its
    centers are (K_h, D_h). Verbs and results are those of :class:`CoKeHeads`; as the heads differ
    in width, there is a product for each, over its own dimensions alone.
    """

    @float32_no_grad
    def step(self, x_ND: Tensor, idx_N: Tensor, own: slice = slice(None)) -> list[Tensor]:
        """As :meth:`CoKeHeads.step`, with features of the largest dimension or more."""
        widest = max(head.kmeans.dim for head in self)
        if x_ND.ndim != 2 or x_ND.shape[1] < widest:
            raise ValueError(
                f'step() takes features (N, {widest}) or wider, but got {tuple(x_ND.shape)}.'
            )
        return [
            head.step(normalize(x_ND[:, : head.kmeans.dim], dim=1), idx_N, own) for head in self
        ]

    def _join(self) -> None:
        """Centers of different widths stay tensors of their own."""


class Buffers(NamedTuple):
    """State of H heads with C clusters in all and A samples."""

    centers_CD: Tensor
    running_CD: Tensor
    dual_C: Tensor
    count_C: Tensor
    label_HA: Tensor
    changed_H2: Tensor
    older_HAS: Tensor | None = None
    weight_HAS: Tensor | None = None


def step(
    state: Buffers, rule: Rule, first: CoKeLabeler, x_ND: Tensor, idx_N: Tensor, own: slice
) -> list[Tensor]:
    """One step of all heads; see :meth:`CoKeLabeler.step`.

    Nothing here waits for the device, or has a shape that depends on values.

    Args:
        state: is changed.
        rule: see there.
        first: of the heads; they agree in all other settings.
        x_ND, idx_N, own: see there.
    """
    kmeans, phase = first.kmeans, first.phase
    previous_HN = state.label_HA.index_select(1, idx_N).long()
    centers_CD = state.centers_CD if phase else state.running_CD
    label_HN = most_similar(x_ND, centers_CD, state.dual_C, rule.sizes)
    place_HN = label_HN + rule.first_H1
    size_C = cluster_sizes(place_HN, len(state.dual_C))
    is_bound = kmeans.min_ratio < 1
    dual_step(state.dual_C, size_C / len(x_ND), rule.dual_lr, rule.lower_bound, is_bound)
    mean_step(state.running_CD, state.count_C, size_C, x_ND, place_HN, unit=not phase)

    old_HNS = None
    if phase:
        old_HNS = slots(
            previous_HN,
            state.older_HAS.index_select(1, idx_N),
            state.weight_HAS.index_select(1, idx_N),
        )
    write(state, old_HNS, first._new_weight, idx_N, label_HN)
    changed_H = (previous_HN != label_HN).float().mean(1)
    state.changed_H2.add_(torch.stack([changed_H, torch.ones_like(changed_H)], 1))

    previous_Hn, label_Hn = previous_HN[:, own], label_HN[:, own]
    if phase < 2:
        return list(torch.where(previous_Hn == UNASSIGNED, label_Hn, previous_Hn))
    slots_HnS = [x_HNS[:, own] for x_HNS in old_HNS]
    new_Hn = previous_Hn == UNASSIGNED
    target_nC = soft_targets(slots_HnS, label_Hn, new_Hn, rule, first.labels.temperature)
    return list(target_nC.split(rule.sizes, 1))


def soft_targets(
    slots_HnS: list[Tensor], label_Hn: Tensor, new_Hn: Tensor, rule: Rule, temperature: float
) -> Tensor:
    """Soft targets of all heads (n, C), from their slots.

    Args:
        slots_HnS: labels and weights, see :func:`slots`.
        label_Hn: the labels just assigned.
        new_Hn: which samples had no label, so they count as that one.
        rule: of the clusters.
        temperature: of the averages.
    """
    place_HnS, weight_HnS = slots_HnS
    share_HnS = label_shares(place_HnS, weight_HnS, temperature)
    share_HnS[..., 0] += new_Hn  # it has no shares so far
    place_HnS = torch.where(new_Hn[..., None], label_Hn[..., None], place_HnS.clamp(min=0))
    if isinstance(rule.first_H1, Tensor):
        place_HnS = place_HnS + rule.first_H1[..., None]
    place_nX, share_nX = (x.transpose(0, 1).flatten(1) for x in (place_HnS, share_HnS))
    return dense_targets(place_nX, share_nX, sum(rule.sizes))


def write(
    state: Buffers,
    old_HNS: tuple[Tensor, Tensor] | None,
    new_weight: Tensor,
    idx_N: Tensor,
    label_HN: Tensor,
) -> None:
    """Store new labels and, in stage 2, average them in; of equal indices the last row counts."""
    label_HN = label_HN[:, last_of_equals(idx_N)]
    state.label_HA.index_copy_(1, idx_N, label_HN.to(state.label_HA.dtype))
    if old_HNS is not None:
        older_HNS, weight_HNS = averaged(*old_HNS, label_HN, new_weight)
        state.older_HAS.index_copy_(1, idx_N, older_HNS.to(state.older_HAS.dtype))
        state.weight_HAS.index_copy_(1, idx_N, weight_HNS)


def buffers_of(head: CoKeLabeler) -> Buffers:
    """Those of one head, with H = 1; views."""
    kmeans, labels = head.kmeans, head.labels
    averages = [labels.older[None], labels.weight[None]] if labels is not head.newest else []
    return Buffers(
        kmeans.centers,
        kmeans.running,
        kmeans.dual,
        kmeans.count,
        head.newest.label[None],
        head._changed[None],
        *averages,
    )


def put_buffers(head: CoKeLabeler, part: Buffers) -> None:
    """Let a head have these; the reverse of :func:`buffers_of`."""
    kmeans, labels = head.kmeans, head.labels
    kmeans.centers, kmeans.running, kmeans.dual, kmeans.count = part[:4]
    head.newest.label, head._changed = part.label_HA[0], part.changed_H2[0]
    if labels is not head.newest:
        labels.older, labels.weight = part.older_HAS[0], part.weight_HAS[0]
