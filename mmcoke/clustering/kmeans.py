"""Offline k-means of all features, on CPU or GPU."""

import math
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from .lloyd import lloyd
from .precision import power_of_two
from .settings import SEED_RANGE, check_number, is_number

BACKENDS = ('auto', 'cpu', 'gpu')
CHUNK_SIZE = 1 << 16
NUM_ROWS = 1 << 10
"""Few enough to stay in the cache while several things are done with them."""


class _LabelAndCenters(NamedTuple):
    label: Tensor
    centers: Tensor


class KMeansResult(_LabelAndCenters):
    """``label, centers = kmeans(...)``, with two more attributes.

    Attributes:
        label: cluster of each sample, int64 (A,); no cluster is empty.
        centers: float32 (K, D).
        objective: sum of the squared distances of the samples to the centers of their clusters.
        num_filled: number of clusters that were empty in the end and got part of another one.
    """

    objective: float
    num_filled: int

    def __new__(
        cls, label: Tensor, centers: Tensor, objective: float, num_filled: int
    ) -> 'KMeansResult':
        result = super().__new__(cls, label, centers)
        result.objective, result.num_filled = objective, num_filled
        return result

    def __getnewargs__(self) -> tuple[Tensor, Tensor, float, int]:
        # What pickle and copy make it from: two items would lose the attributes.
        return self.label, self.centers, self.objective, self.num_filled


@torch.no_grad()
def kmeans(
    x_AD: Tensor,
    num_clusters: int,
    *,
    spherical: bool = False,
    num_iters: int = 20,
    seed: int = 0,
    backend: str = 'auto',
    init: Tensor | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> KMeansResult:
    """Lloyd's algorithm from random samples; the same result for the same seed and machine.

    A cluster that runs empty on the way takes over half of the largest one. One that is empty in
    the end gets half of the largest cluster, split by 2-means.

    Args:
        x_AD: features (A, D), finite, on any device; they are clustered in float32, whatever their
            size. Results are on the CPU.
        num_clusters: K, at most A.
        spherical: centers on the unit sphere, nearest by inner product: for unit vectors.
        num_iters: iterations, each an assignment and an update; one more assignment follows.
        seed: in 0 ... 2^32 - 1, chooses the K samples that the centers start from.
        backend: 'cpu'; 'gpu', all of them, with faiss-gpu; 'auto', where the features are, if that
            is a GPU, else all GPUs if there is a faiss that finds any, else the CPU.
        init: first centers (K, D) instead.
        progress: wraps the iterable of iterations, such as ``rich.progress.track``.

    Raises:
        ValueError: if there are more clusters than samples, a feature is not finite, or an argument
            is out of its range.
        ImportError: if faiss is not installed, for 'gpu'.
    """
    check_arguments(x_AD, num_clusters, num_iters, seed, backend)
    if backend == 'auto':
        backend = 'here' if x_AD.is_cuda else 'gpu' if finds_gpus() else 'cpu'
    x_AD = rows_of(x_AD, x_AD.device if backend == 'here' else 'cpu')
    if init is None:
        generator = torch.Generator().manual_seed(seed)
        init = x_AD[torch.randperm(len(x_AD), generator=generator)[:num_clusters]]
    init = rows_of(init, x_AD.device)
    if init.shape != (num_clusters, x_AD.shape[1]) or not init.isfinite().all():
        raise ValueError(
            f'init must be {num_clusters} finite centers of dimension {x_AD.shape[1]}, but is '
            f'{tuple(init.shape)}.'
        )
    factor = power_of_two(max(largest(x_AD), largest(init)))
    if factor != 1:
        x_AD, init = scaled(x_AD, factor), scaled(init, factor)
    run = lloyd_by_faiss if backend == 'gpu' else lloyd
    label_A, centers_KD = run(x_AD, init, spherical, num_iters, progress)
    num_filled = fill_empty_clusters(x_AD, label_A, centers_KD, spherical)
    if not spherical:
        centers_KD = scaled(centers_KD, 1 / factor)
    objective = objective_of(x_AD, label_A, centers_KD, factor)
    return KMeansResult(label_A.cpu(), centers_KD.cpu(), objective, num_filled)


def objective_of(x_AD: Tensor, label_A: Tensor, centers_KD: Tensor, factor: float) -> float:
    """Sum of squared distances to the centers, of features that were multiplied by a factor."""
    if factor != 1:  # squares may lie outside float32
        centers_KD = centers_KD.double()
    return sum(
        (x_nD.to(centers_KD.dtype) / factor - centers_KD[label_n]).square_().sum(1).double().sum()
        for x_nD, label_n in zip(x_AD.split(NUM_ROWS), label_A.split(NUM_ROWS), strict=True)
    ).item()


def import_faiss() -> ModuleType:
    """faiss, or an ImportError that says how to get it."""
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            "k-means with backend='gpu' needs faiss. Install it with `pip install faiss-gpu`, "
            "never beside faiss-cpu, or set backend='auto'."
        ) from error
    return faiss


def check_arguments(
    x_AD: Tensor, num_clusters: int, num_iters: int, seed: int, backend: str
) -> None:
    """Refuse what cannot be clustered; see :func:`kmeans`."""
    check_table(x_AD)
    check_number('num_clusters', num_clusters, '[1, inf)', whole=True)
    if num_clusters > len(x_AD):
        raise ValueError(
            f'num_clusters must be in 1 ... {len(x_AD)}, the number of samples, but is '
            f'{num_clusters}. Choose fewer clusters, or give more images.'
        )
    check_number('num_iters', num_iters, '[1, inf)', whole=True)
    check_number('seed', seed, SEED_RANGE, whole=True)
    check_finite(x_AD)
    if backend not in BACKENDS:
        raise ValueError(f'backend must be one of {BACKENDS}, but is {backend!r}.')
    if backend == 'gpu' and not num_gpus():
        raise ValueError(
            "backend='gpu' needs faiss-gpu and a GPU, but faiss finds none. Replace faiss-cpu by "
            "faiss-gpu, or set backend='auto'."
        )


def check_table(x_AD: Tensor) -> None:
    """ValueError if features are not (A, D) of real numbers, with at least one dimension."""
    if x_AD.ndim != 2 or not x_AD.shape[1] or x_AD.is_complex() or x_AD.dtype == torch.bool:
        raise ValueError(
            f'Features must be (A, D), but are {tuple(x_AD.shape)} of {x_AD.dtype}; D is at least '
            '1, and the numbers are real.'
        )


def check_finite(x_AD: Tensor) -> None:
    """ValueError if a feature is NaN or infinite, or cannot be held in float32."""
    size, limits = largest(x_AD), torch.finfo(torch.float32)
    if not math.isfinite(size):
        num_bad = sum((~x_nD.isfinite().all(1)).sum().item() for x_nD in x_AD.split(CHUNK_SIZE))
        raise ValueError(
            f'The features of {num_bad} of {len(x_AD)} samples are NaN or infinite. Lower the '
            'learning rate or check the images.'
        )
    if x_AD.dtype == torch.float64 and size and not limits.tiny <= size <= limits.max:
        raise ValueError(
            f'The largest feature is {size:.2g}, but float32 ends at {limits.tiny:.2g} and '
            f'{limits.max:.2g}. Multiply all features by a constant.'
        )


def largest(x_AD: Tensor) -> float:
    """Largest absolute value; 0 of no values, NaN if one is NaN."""
    chunks = x_AD.split(CHUNK_SIZE) if x_AD.numel() else ()
    # Not abs(): that of the least int64 is negative.
    ends = [abs(end.item()) for x_nD in chunks for end in x_nD.aminmax()]
    return math.nan if any(map(math.isnan, ends)) else max(ends, default=0)


def rows_of(x_AD: Tensor, device: torch.device | str) -> Tensor:
    """Features as they are clustered: in float32, row by row."""
    return x_AD.detach().to(device, torch.float32).contiguous()


def scaled(x_AD: Tensor, factor: float) -> Tensor:
    """Features times a power of 2, in two steps: float32 does not hold all of them."""
    step = 2.0 ** (round(math.log2(factor)) // 2)
    return x_AD * step * (factor / step)


def num_gpus() -> int:
    """GPUs that faiss can use; 0 with faiss-cpu."""
    return getattr(import_faiss(), 'get_num_gpus', int)()


def finds_gpus() -> bool:
    """Whether there is a faiss with GPUs."""
    try:
        return num_gpus() > 0
    except ImportError:
        return False


def lloyd_by_faiss(
    x_AD: Tensor,
    centers_KD: Tensor,
    spherical: bool = False,
    num_iters: int = 20,
    progress: Callable[[Iterable], Iterable] = iter,
) -> tuple[Tensor, Tensor]:
    """As :func:`lloyd`, on all GPUs; features and result are on the CPU."""
    faiss = import_faiss()
    x, (num_clusters, dim) = x_AD.numpy(), centers_KD.shape
    index = faiss.IndexFlatIP(dim) if spherical else faiss.IndexFlatL2(dim)
    index = faiss.index_cpu_to_all_gpus(index)
    clustering = faiss.Clustering(dim, num_clusters)
    clustering.spherical, clustering.niter = spherical, 1
    # All samples count, however many; too few are no reason to warn: callers have checked both.
    clustering.max_points_per_centroid, clustering.min_points_per_centroid = 1 << 30, 1
    faiss.copy_array_to_vector(centers_KD.numpy().ravel(), clustering.centroids)
    for _ in progress(range(num_iters)):
        clustering.train(x, index)
    centers = faiss.vector_to_array(clustering.centroids).reshape(num_clusters, dim)
    label = [
        index.search(x[first : first + CHUNK_SIZE], 1)[1][:, 0]
        for first in range(0, len(x), CHUNK_SIZE)
    ]
    return torch.from_numpy(np.concatenate(label)), torch.from_numpy(centers)


def fill_empty_clusters(
    x_AD: Tensor, label_A: Tensor, centers_KD: Tensor, spherical: bool = False
) -> int:
    """Give each empty cluster half of the then largest one, in place; returns how many."""
    size_K = torch.bincount(label_A, minlength=len(centers_KD))
    empty = (size_K == 0).nonzero().flatten().tolist()
    # No other clusters can become the largest: one search finds all samples that may move.
    members = members_of(label_A, size_K.sort(descending=True, stable=True)[1][: len(empty)])
    for cluster in empty:
        largest = size_K.argmax().item()
        rows = members[largest]
        moved = split_in_two(x_AD[rows])
        members[largest], members[cluster] = rows[~moved], rows[moved]
        label_A[members[cluster]] = cluster
        for k in (largest, cluster):
            center = x_AD[members[k]].mean(0)
            centers_KD[k] = normalize(center, dim=0) if spherical else center
            size_K[k] = len(members[k])
    return len(empty)


def members_of(label_A: Tensor, clusters: Tensor) -> dict[int, Tensor]:
    """Rows of each of some clusters, in order, by one search through the labels (A,)."""
    rows = torch.isin(label_A, clusters).nonzero().flatten()
    label, order = label_A[rows].sort(stable=True)
    found, sizes = label.unique_consecutive(return_counts=True)
    return dict(zip(found.tolist(), rows[order].split(sizes.tolist()), strict=True))


def split_in_two(x_nD: Tensor, num_iters: int = 20) -> Tensor:
    """2-means of at least two samples (n, D): which go to the second part, bool (n,).

    Both parts have members, also of samples that are all the same. The start is the sample
    farthest from the mean, and the one farthest from that.
    """
    x_nD = x_nD.float()
    first = (x_nD - x_nD.mean(0)).square().sum(1).argmax()
    second = (x_nD - x_nD[first]).square().sum(1).argmax()
    one_D, other_D, total_D = x_nD[first], x_nD[second], x_nD.sum(0)
    moved_n = before_n = torch.zeros(len(x_nD), dtype=torch.bool, device=x_nD.device)
    for _ in range(num_iters + 1):
        moved_n = x_nD @ (other_D - one_D) > (other_D @ other_D - one_D @ one_D) / 2
        if torch.equal(moved_n, before_n):
            break
        before_n, size = moved_n, moved_n.sum().clamp(1, len(x_nD) - 1)
        part_D = moved_n.float() @ x_nD
        one_D, other_D = (total_D - part_D) / (len(x_nD) - size), part_D / size
    if moved_n.all() or not moved_n.any():
        return torch.arange(len(x_nD), device=x_nD.device) >= (len(x_nD) + 1) // 2
    return moved_n


@torch.no_grad()
def pca_whiten(x_AD: Tensor, dim: int) -> Tensor:
    """Principal components, whitened, then L2-normalized: what DeepCluster clusters.

    Args:
        x_AD: features (A, D), finite, of any size.
        dim: number of components, at most D and below A.

    Returns:
        float32 (A, dim), on CPU.

    Raises:
        ValueError: if a feature is not finite, or there are too many components for the features.
    """
    check_table(x_AD)
    num_samples, width = x_AD.shape
    check_finite(x_AD)
    if not is_number(dim, whole=True) or not 1 <= dim <= width or dim >= num_samples:
        raise ValueError(
            f'pca_dim must be in 1 ... {min(width, num_samples - 1)} for {num_samples} features of '
            f'dimension {width}, but is {dim}.'
        )
    x_AD, factor = rows_of(x_AD, 'cpu'), power_of_two(largest(x_AD))
    chunks = (x_AD if factor == 1 else scaled(x_AD, factor)).split(CHUNK_SIZE)
    mean_D = (sum(x_nD.sum(0).double() for x_nD in chunks) / num_samples).float()
    covariance_DD = sum(((x_nD - mean_D).T @ (x_nD - mean_D)).double() for x_nD in chunks)
    variance_D, axes_DD = torch.linalg.eigh(covariance_DD / num_samples)
    # What rounding to float32 makes of directions in which nothing varies.
    eps = torch.finfo(torch.float32).eps
    rounding = 10 * eps * (variance_D[-1] + eps * mean_D.square().sum())
    if variance_D[-dim] <= rounding:
        raise ValueError(
            f'The features vary in {(variance_D > rounding).sum()} directions only, too few for '
            f'pca_dim={dim}. Lower pca_dim; if that is far too few, training has collapsed: lower '
            'the learning rate.'
        )
    axes_Dd = (axes_DD / variance_D.sqrt())[:, -dim:].flip(1).float()
    return torch.cat([normalize((x_nD - mean_D) @ axes_Dd, dim=1) for x_nD in chunks])
