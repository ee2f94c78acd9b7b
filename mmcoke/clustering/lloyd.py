"""Lloyd's algorithm, exact, on CPU and GPU: nearest centers, means, and the rows that cannot move.

Most of its time is one product of all samples and centers per iteration, in chunks whose scores
stay in the cache. Two things save more: the means are sums over sorted rows (no product with a
one-hot matrix), and, as soon as few labels change, rows whose nearest center provably cannot have
changed are left out (Hamerly, 2010, with groups of centers as in Ding et al., Yinyang, 2015).
"""

import heapq
import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from .precision import unit_rows

SCORES_PER_CHUNK = dict(cpu=1 << 19, cuda=1 << 27)
"""2 MB stay in the cache; a GPU wants much at once."""

MIN_ROWS = 256
NUM_GROUPS = 64
EPS = torch.finfo(torch.float32).eps
WORTH_BOUNDS = 1 << 15
"""Multiplications per row."""

SETTLING = 0.05
"""Share of changed labels from which on bounds pay; before, hardly a row could be left out."""


def lloyd(
    x_AD: Tensor,
    centers_KD: Tensor,
    spherical: bool = False,
    num_iters: int = 20,
    progress: Callable[[Iterable], Iterable] = iter,
) -> tuple[Tensor, Tensor]:
    """Labels, in which clusters may be empty, and centers, on the device of the features.

    The same result for the same device and number of threads.

    Args:
        x_AD: float32 (A, D), row by row; squares of its numbers must be far from the limits of
            float32.
        centers_KD: first centers, float32 (K, D), on the same device.
        spherical: centers on the unit sphere, nearest by inner product.
        num_iters: iterations, each an assignment and an update; one more assignment follows.
        progress: wraps the iterable of iterations.
    """
    if spherical:
        centers_KD = on_sphere(centers_KD)
    nearest = NearestCenters(x_AD, len(centers_KD), spherical)
    for _ in progress(range(num_iters)):
        if nearest.num_changed:
            nearest.assign(centers_KD)
        if nearest.num_changed:  # the same labels have the same means
            centers_KD = means(x_AD, nearest.label_A, len(centers_KD), spherical)
    if nearest.num_changed:
        nearest.assign(centers_KD)
    return nearest.label_A, centers_KD


class NearestCenters:
    """Labels of the nearest centers, which move.

    A center that moves by d gets nearer by d at most. So each row has an upper bound on the
    distance to its own center, and for each group of centers a lower bound on the distance to the
    nearest of the others. While the first is below all of the second, the label stays. Centers
    that move far would spoil the bound of their group: they are compared with every row instead.
    The bounds allow for the rounding of scores.

    Args:
        x_AD: float32 (A, D); it must not change.
        num_clusters: K.
        spherical: nearest by inner product, and all centers are unit vectors.
    """

    def __init__(self, x_AD: Tensor, num_clusters: int, spherical: bool = False) -> None:
        self.x_AD, self.spherical = x_AD, spherical
        self.label_A = x_AD.new_full((len(x_AD),), -1, dtype=torch.int64)
        self.num_changed = len(x_AD)
        # Bounds cost more than a small product.
        self.settling = SETTLING if num_clusters * x_AD.shape[1] >= WORTH_BOUNDS else 0.0
        self.group_size = max(8, math.ceil(num_clusters / NUM_GROUPS))
        num_columns = math.ceil(num_clusters / self.group_size) * self.group_size
        # Products are fastest with whole blocks of rows.
        num_rows = SCORES_PER_CHUNK[x_AD.device.type] // num_columns // MIN_ROWS * MIN_ROWS
        num_rows = max(MIN_ROWS, num_rows)
        self.score = x_AD.new_empty(min(len(x_AD), num_rows), num_columns)
        # Columns beyond K have no center. The groups take turns: vector instructions then compare
        # many at once.
        self.centers_DK = x_AD.new_zeros(x_AD.shape[1], num_columns)
        self.bias_K = x_AD.new_full((num_columns,), -math.inf)
        self.upper_A = self.lower_AG = self.square_A = None

    def assign(self, centers_KD: Tensor) -> None:
        """Update ``label_A``; ``num_changed`` is how many labels are others than before."""
        label_A, before_DK = self.label_A.clone(), self.centers_DK.clone()
        self.centers_DK[:, : len(centers_KD)] = centers_KD.T
        square_K = centers_KD.square().sum(1)
        self.bias_K[: len(centers_KD)] = 0 if self.spherical else square_K / -2
        self.largest = square_K.max()
        rows = None
        if self.lower_AG is not None:
            rows = self._undecided((self.centers_DK - before_DK).norm(dim=0))
        elif self.num_changed <= self.settling * len(self.x_AD):
            self._start_bounds()
        for part in self._chunks() if rows is None else rows.split(len(self.score)):
            self._search(part)
        self.num_changed = int((self.label_A != label_A).sum())

    def _chunks(self) -> list[slice]:
        size = len(self.score)
        return [slice(start, start + size) for start in range(0, len(self.x_AD), size)]

    def _search(self, part: slice | Tensor) -> None:
        """New labels, and bounds, of some rows."""
        x_nD = self.x_AD[part]
        score_nK = torch.addmm(self.bias_K, x_nD, self.centers_DK, out=self.score[: len(x_nD)])
        self.label_A[part] = label_n = argmax(score_nK)
        if self.lower_AG is not None:
            own_n1 = score_nK.gather(1, label_n[:, None])
            others_nK = score_nK.scatter_(1, label_n[:, None], -math.inf)
            others_nG = others_nK.unflatten(1, (self.group_size, -1)).amax(1)
            self.upper_A[part] = self._distance(own_n1, part, 1)[:, 0]
            self.lower_AG[part] = self._distance(others_nG, part, -1)

    def _distance(self, score_nX: Tensor, part: slice | Tensor, side: int) -> Tensor:
        """Distances that belong to scores, rounded up (side 1) or down (-1)."""
        square_n1 = self.square_A[part][:, None]
        rounding_n1 = side * 2 * EPS * self.x_AD.shape[1] ** 0.5 * (square_n1 + self.largest)
        constant_n1 = square_n1 + 1 if self.spherical else square_n1
        return (constant_n1 + rounding_n1 - 2 * score_nX).clamp_(min=0).sqrt_()

    def _start_bounds(self) -> None:
        self.square_A = torch.linalg.vector_norm(self.x_AD, dim=1).square()
        self.upper_A = torch.empty_like(self.square_A)
        self.lower_AG = self.x_AD.new_empty(len(self.x_AD), len(self.bias_K) // self.group_size)

    def _undecided(self, moved_K: Tensor) -> Tensor | None:
        """Rows whose labels may change, in order, or None for all; bounds follow the centers."""
        moved_K = moved_K * (1 + 1e-5)
        self.upper_A += moved_K[self.label_A]
        margin_A = self.lower_AG.amin(1) - self.upper_A
        far, share = far_centers(moved_K, margin_A)
        if share > 0.9:
            # Too early: the next try is when far fewer labels change.
            self.upper_A = self.lower_AG = None
            self.settling /= 4
            return None
        near_K = moved_K.index_fill(0, far, 0)
        self.lower_AG -= near_K.unflatten(0, (self.group_size, -1)).amax(0)
        if len(far):
            groups = (far % self.lower_AG.shape[1]).unique()
            for part in self._chunks():
                far_n1 = self._distance_to_others(far, part)
                self.lower_AG[part, groups] = self.lower_AG[part, groups].minimum(far_n1)
        return (self.lower_AG.amin(1) <= self.upper_A).nonzero()[:, 0]

    def _distance_to_others(self, some: Tensor, part: slice) -> Tensor:
        """Lower bound (n, 1) on the distances to some centers, but for the own one."""
        score_nF = torch.addmm(self.bias_K[some], self.x_AD[part], self.centers_DK[:, some])
        score_nF.masked_fill_(self.label_A[part][:, None] == some, -math.inf)
        return self._distance(score_nF.amax(1, keepdim=True), part, -1)


def far_centers(moved_K: Tensor, margin_A: Tensor) -> tuple[Tensor, float]:
    """The centers to compare with every row, and the share of products that are left then.

    So many that they, and the rows that the movement of the next one leaves undecided, are fewest.
    """
    moved_K, order_K = moved_K.sort(descending=True)
    counts = [0, *(len(moved_K) // n for n in (64, 32, 16, 8, 4) if n <= len(moved_K))]
    shares = [n / len(moved_K) + (margin_A <= moved_K[n]).float().mean().item() for n in counts]
    best = min(range(len(counts)), key=shares.__getitem__)
    return order_K[: counts[best]], shares[best]


def argmax(score_nK: Tensor) -> Tensor:
    """Of each row, int64 (n,); on CPU by numpy, which uses vector instructions: 15 x as fast."""
    if score_nK.device.type == 'cpu':
        return torch.from_numpy(np.argmax(score_nK.numpy(), 1))
    return score_nK.argmax(1)


def means(x_AD: Tensor, label_A: Tensor, num_clusters: int, spherical: bool = False) -> Tensor:
    """Centers of the clusters (K, D), each sum in the order of its samples.

    A cluster without samples takes over half of the then largest one: both get its mean, moved
    apart by 1/1024.
    """
    size_K = torch.bincount(label_A, minlength=num_clusters)
    order_A = label_A.argsort(stable=True)
    total_KD = embedding_bag(order_A, x_AD, size_K.cumsum(0) - size_K, mode='sum')
    centers_KD = total_KD / size_K.clamp(min=1)[:, None]
    if not size_K.all():
        split_largest(centers_KD, size_K.tolist())
    return on_sphere(centers_KD) if spherical else centers_KD


def split_largest(centers_KD: Tensor, sizes: list[int]) -> None:
    """For each cluster of size 0, split the then largest one, in place."""
    shift_D = torch.ones_like(centers_KD[0])
    shift_D[1::2] = -1
    shift_D /= 1024
    queue = [(-size, k) for k, size in enumerate(sizes) if size]
    heapq.heapify(queue)
    for empty in (k for k, size in enumerate(sizes) if not size):
        size, largest = queue[0]
        heapq.heapreplace(queue, (-(-size // 2), largest))
        heapq.heappush(queue, (size // 2, empty))
        centers_KD[empty] = centers_KD[largest] * (1 + shift_D)
        centers_KD[largest] *= 1 - shift_D


def on_sphere(centers_KD: Tensor) -> Tensor:
    """Unit vectors; the first axis for one of 0, because all directions are as good."""
    centers_KD = unit_rows(centers_KD)
    centers_KD[~centers_KD.any(1), 0] = 1
    return centers_KD
