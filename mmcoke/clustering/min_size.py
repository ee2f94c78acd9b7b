"""A lower bound on cluster sizes, enforced exactly by moving the samples that lose least."""

from collections.abc import Callable

import torch
from torch import Tensor

from .row_stream import shared

CELLS = 1 << 22
"""Losses of samples in clusters at once: 16 MB."""


class Repair:
    """Moves samples into clusters below a bound; in a class as its steps share the state.

    A greedy solution of the transport problem: again and again the move of least lost similarity,
    from a cluster above the bound to one below. Losses of moves only grow while clusters fill and
    donors run out. So each sample has a lower bound on its least loss; the samples with the least
    ones are looked at again, and move if no other can have a smaller loss.

    Args:
        read: unit rows (n, D) of samples, from their places or a slice.
        centers_KD: unit vectors.
        label_A, similarity_A: of all samples, on the CPU, changed in place.
        min_size: no more than A / K.
        rows_per_chunk: rows that are compared with the centers at once.
    """

    def __init__(
        self,
        read: Callable[[Tensor | slice], Tensor],
        centers_KD: Tensor,
        label_A: Tensor,
        similarity_A: Tensor,
        min_size: int,
        rows_per_chunk: int,
    ) -> None:
        self.read, self.centers_KD = read, centers_KD
        self.label_A, self.similarity_A = label_A, similarity_A
        size_K = torch.bincount(label_A, minlength=len(centers_KD))
        self.need_K = (min_size - size_K).clamp(min=0)
        self.spare_K = (size_K - min_size).clamp(min=0)
        self.rows_per_chunk = rows_per_chunk

    def run(self) -> Tensor:
        """Move until no cluster is below the bound; returns the places of the moved, in order."""
        moved = [torch.empty(0, dtype=torch.int64)]
        if self.need_K.any():
            loss_A = self._least_losses()
        while num_missing := int(self.need_K.sum()):
            num_below = int((self.need_K > 0).sum())
            # Rows enough for what is missing, and not more losses than memory is for.
            num_rows = min(2 * num_missing + 64, max(CELLS // num_below, 64), len(loss_A))
            value_n, rows = loss_A.topk(num_rows, largest=False)
            rows = rows[value_n.isfinite()]
            is_all = num_rows == len(loss_A)
            limit = float('inf') if is_all else value_n[-1].item()
            moved.append(self._move(rows, limit, loss_A))
        return torch.cat(moved).sort()[0]

    def _least_losses(self) -> Tensor:
        """Least losses of a move of each sample; infinite where its cluster gives none."""
        below = self.need_K.nonzero().flatten()
        centers_BD = self.centers_KD[below.to(self.centers_KD.device)]

        def losses(part: slice) -> tuple[Tensor]:
            rows = self.spare_K[self.label_A[part]].nonzero().flatten() + part.start
            loss_n = torch.full_like(self.similarity_A[part], float('inf'))
            best_n = (self.read(rows) @ centers_BD.T).amax(1).cpu()
            loss_n[rows - part.start] = self.similarity_A[rows] - best_n
            return (loss_n,)

        device = self.centers_KD.device
        chunk, num_rows = self.rows_per_chunk, len(self.label_A)
        return shared([torch.float32], num_rows, chunk, losses, device)[0].cpu()

    def _move(self, rows: Tensor, limit: float, loss_A: Tensor) -> Tensor:
        """Greedy moves among some samples, of losses up to a limit; corrects their bounds."""
        below = self.need_K.nonzero().flatten()
        centers_BD = self.centers_KD[below.to(self.centers_KD.device)]
        similarity_nB = (self.read(rows) @ centers_BD.T).cpu()
        loss_nB = self.similarity_A[rows][:, None] - similarity_nB
        moved_n = torch.zeros(len(rows), dtype=torch.bool)
        while True:
            loss_nB[:, self.need_K[below] == 0] = float('inf')
            loss_nB[(self.spare_K[self.label_A[rows]] == 0) | moved_n] = float('inf')
            value_n, place_n = loss_nB.min(1)
            wish = (value_n <= limit).nonzero().flatten()
            wish = wish[value_n[wish].isfinite()]
            if not len(wish):
                break
            wish = wish[value_n[wish].argsort(stable=True)]
            donor, target = self.label_A[rows[wish]], below[place_n[wish]]
            fits = rank_within(donor) < self.spare_K[donor]
            fits &= rank_within(target) < self.need_K[target]
            wish, donor, target = wish[fits], donor[fits], target[fits]
            self.spare_K -= torch.bincount(donor, minlength=len(self.spare_K))
            self.need_K -= torch.bincount(target, minlength=len(self.need_K))
            self.label_A[rows[wish]] = target
            self.similarity_A[rows[wish]] = similarity_nB[wish, place_n[wish]]
            moved_n[wish] = True
        loss_A[rows] = value_n
        return rows[moved_n]


def rank_within(group_n: Tensor) -> Tensor:
    """For each place how many before it are of the same group, int64 (n,)."""
    _, order_n = group_n.sort(stable=True)
    sizes = torch.unique(group_n, return_counts=True)[1]
    starts = torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
    rank_n = torch.empty_like(group_n)
    rank_n[order_n] = torch.arange(len(group_n)) - starts
    return rank_n
