"""A lower bound on cluster sizes, enforced exactly at the least lost similarity."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .row_stream import shared

CELLS = 1 << 22
"""Losses of samples in clusters at once: 16 MB."""


class Repair:
    """Moves samples so that sizes hold a bound; in a class as its steps share the state.

    A greedy solution of the transport problem, in two steps. First clusters above the bound give
    back what only their duals have won, most gain first. Then again and again the move of least
    lost similarity, from a cluster above the bound to one below. Losses of moves only grow while
    clusters fill and donors run out. So each sample has a lower bound on its least loss; the
    samples with the least ones are looked at again, and move if no other can have a smaller loss.

    Args:
        read: unit rows (n, D) of samples, from their places or a slice.
        centers_KD: unit vectors.
        label_A, similarity_A, margin_A: of all samples, on the CPU, changed in place, see
            :class:`~mmcoke.clustering.StreamResult`.
        min_size: no more than A / K.
        rows_per_chunk: rows that are compared with the centers at once.
    """

    def __init__(
        self,
        read: Callable[[Tensor | slice], Tensor],
        centers_KD: Tensor,
        label_A: Tensor,
        similarity_A: Tensor,
        margin_A: Tensor,
        *,
        min_size: int,
        rows_per_chunk: int,
    ) -> None:
        self.read, self.centers_KD = read, centers_KD
        self.label_A, self.similarity_A, self.margin_A = label_A, similarity_A, margin_A
        size_K = torch.bincount(label_A, minlength=len(centers_KD))
        self.need_K = (min_size - size_K).clamp(min=0)
        self.spare_K = (size_K - min_size).clamp(min=0)
        self.rows_per_chunk = rows_per_chunk

    def run(self) -> int:
        """Move until all sizes hold the bound; returns how many samples have another label."""
        before_A = self.label_A.clone()
        while len(rows := self._held_back()):
            self._relabel(rows, self._best_others(rows))
            self.similarity_A[rows] -= self.margin_A[rows]
            self.margin_A[rows] = 0  # not less: they are with the nearest center
        if self.need_K.any():
            self._fill()
        moved = (self.label_A != before_A).nonzero().flatten()
        if len(moved):
            self.similarity_A[moved], self.margin_A[moved] = self._compared(moved)
        return len(moved)

    def _held_back(self) -> Tensor:
        """Samples that lose in their clusters, which can do without them; those of most loss."""
        rows = ((self.margin_A < 0) & (self.spare_K[self.label_A] > 0)).nonzero().flatten()
        rows = rows[self.margin_A[rows].argsort(stable=True)]
        return rows[rank_within(self.label_A[rows]) < self.spare_K[self.label_A[rows]]]

    def _relabel(self, rows: Tensor, label_n: Tensor) -> None:
        """Move samples; no donor gets below the bound by it."""
        num_clusters = len(self.spare_K)
        self.spare_K -= torch.bincount(self.label_A[rows], minlength=num_clusters)
        gained_K = torch.bincount(label_n, minlength=num_clusters)
        self.spare_K += (gained_K - self.need_K).clamp(min=0)
        self.need_K = (self.need_K - gained_K).clamp(min=0)
        self.label_A[rows] = label_n

    def _fill(self) -> None:
        """Move the samples that lose least until no cluster is below the bound."""
        loss_A = self._least_losses()
        while num_missing := int(self.need_K.sum()):
            num_below = int((self.need_K > 0).sum())
            # Rows enough for what is missing, and not more losses than memory is for.
            num_rows = min(2 * num_missing + 64, max(CELLS // num_below, 64), len(loss_A))
            value_n, rows = loss_A.topk(num_rows, largest=False)
            limit = math.inf if num_rows == len(loss_A) else value_n[-1].item()
            self._move(rows[value_n.isfinite()], limit, loss_A)

    def _least_losses(self) -> Tensor:
        """Least loss of a move of each sample; infinite where its cluster gives none."""
        below = self.need_K.nonzero().flatten()
        centers_BD = self.centers_KD[below.to(self.centers_KD.device)]

        def losses(part: slice) -> tuple[Tensor]:
            rows = self.spare_K[self.label_A[part]].nonzero().flatten() + part.start
            loss_n = torch.full_like(self.similarity_A[part], math.inf)
            best_n = (self.read(rows) @ centers_BD.T).amax(1).cpu()
            loss_n[rows - part.start] = self.similarity_A[rows] - best_n
            return (loss_n,)

        size, device = self.rows_per_chunk, self.centers_KD.device
        return shared([torch.float32], len(self.label_A), size, losses, device)[0].cpu()

    def _move(self, rows: Tensor, limit: float, loss_A: Tensor) -> None:
        """Greedy moves among some samples, of losses up to a limit; corrects their least losses."""
        below = self.need_K.nonzero().flatten()
        centers_BD = self.centers_KD[below.to(self.centers_KD.device)]
        loss_nB = self.similarity_A[rows][:, None] - (self.read(rows) @ centers_BD.T).cpu()
        while True:
            loss_nB[:, self.need_K[below] == 0] = math.inf
            loss_nB[self.spare_K[self.label_A[rows]] == 0] = math.inf
            value_n, place_n = loss_nB.min(1)
            wish = ((value_n <= limit) & value_n.isfinite()).nonzero().flatten()
            if not len(wish):
                break
            wish = wish[value_n[wish].argsort(stable=True)]
            donor, target = self.label_A[rows[wish]], below[place_n[wish]]
            fits = rank_within(donor) < self.spare_K[donor]
            fits &= rank_within(target) < self.need_K[target]
            self._relabel(rows[wish[fits]], target[fits])
        loss_A[rows] = value_n

    def _best_others(self, rows: Tensor) -> Tensor:
        """Nearest of the other clusters, int64 (n,)."""
        return self._with_centers(rows, [torch.int64], lambda *args: (others(*args).argmax(1),))[0]

    def _compared(self, rows: Tensor) -> list[Tensor]:
        """Similarity and margin."""
        return self._with_centers(rows, [torch.float32] * 2, similarity_and_margin)

    def _with_centers(self, rows: Tensor, dtypes: list, function: Callable) -> list[Tensor]:
        """What a function gives for similarities (n, K) and labels of some samples."""
        device = self.centers_KD.device

        def found(part: slice) -> tuple[Tensor, ...]:
            label_n = self.label_A[rows[part]].to(device)
            return function(self.read(rows[part]) @ self.centers_KD.T, label_n)

        results = shared(dtypes, len(rows), self.rows_per_chunk, found, device)
        return [x.cpu() for x in results]


def similarity_and_margin(similarity_nK: Tensor, label_n: Tensor) -> tuple[Tensor, Tensor]:
    """To the center of the own cluster, and that minus the best other one; spoils its argument."""
    own_n = similarity_nK.gather(1, label_n[:, None])[:, 0]
    return own_n, own_n - others(similarity_nK, label_n).amax(1)


def others(similarity_nK: Tensor, label_n: Tensor) -> Tensor:
    """The similarities without those to the own cluster, in place."""
    return similarity_nK.scatter_(1, label_n[:, None], -math.inf)


def rank_within(group_n: Tensor) -> Tensor:
    """For each place how many before it are of the same group, int64 (n,)."""
    _, order_n = group_n.sort(stable=True)
    sizes = torch.unique(group_n, return_counts=True)[1]
    starts = torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
    rank_n = torch.empty_like(group_n)
    rank_n[order_n] = torch.arange(len(group_n)) - starts
    return rank_n
