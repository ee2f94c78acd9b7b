"""Numbers that say how a clustering is: pure functions of sizes, duals, labels and features.

Each gives a dict of scalar tensors on the device of its arguments; :func:`floats` reads them, all
at once. They are for the end of an epoch, not for a training step.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .pseudo_labels import UNASSIGNED

QUANTILES = (0.1, 0.5, 0.9)

SIZE_BINS = [0, *sorted({math.ceil(2 ** (i / 2)) for i in range(60)})]
"""Lower ends of the bins of :func:`size_counts`: 0, 1, 2, 3, 4, 6, 8, 12, 16, ..."""


def floats(scalars: Mapping[str, Tensor]) -> dict[str, float]:
    """Scalar tensors as Python numbers, by one copy from the device."""
    if not scalars:
        return {}
    values = torch.stack([x.double().reshape(()) for x in scalars.values()]).tolist()
    return dict(zip(scalars, values, strict=True))


@torch.no_grad()
def size_statistics(size_K: Tensor, lower_bound: float = 0.0) -> dict[str, Tensor]:
    """How even the sizes of clusters are, and what is missing to their lower bound.

    Args:
        size_K: samples in each cluster (K,).
        lower_bound: of a cluster's share of all samples, in [0, 1 / K].

    Returns:
        ``min_size``, ``q10_size``, ``q50_size``, ``q90_size``, ``max_size`` in samples; ``entropy``
        of the shares, in nats, and ``perplexity``, its exponential: so many clusters of equal sizes
        have the same entropy; ``num_empty``; ``num_small``, the clusters below the bound;
        ``violation``, the share of all samples that is missing to it.
    """
    size_K = size_K.double()
    share_K = size_K / size_K.sum().clamp(min=1)
    entropy = -torch.special.xlogy(share_K, share_K).sum()
    low, middle, high = size_K.quantile(torch.tensor(QUANTILES, dtype=size_K.dtype).to(size_K))
    return dict(
        min_size=size_K.min(),
        q10_size=low,
        q50_size=middle,
        q90_size=high,
        max_size=size_K.max(),
        entropy=entropy,
        perplexity=entropy.exp(),
        num_empty=(size_K == 0).sum(),
        num_small=(share_K < lower_bound).sum(),
        violation=violation(size_K, lower_bound),
    )


@torch.no_grad()
def size_counts(size_K: Tensor) -> list[int]:
    """How many clusters have a size in each bin of :data:`SIZE_BINS`, up to the last one that is
    not empty.

    Args:
        size_K: samples in each cluster (K,).
    """
    ends = torch.tensor(SIZE_BINS, device=size_K.device)
    bin_K = torch.bucketize(size_K.long(), ends, right=True) - 1
    return torch.bincount(bin_K).tolist()


@torch.no_grad()
def violation(size_K: Tensor, lower_bound: float) -> Tensor:
    """``violation`` of :func:`size_statistics`."""
    share_K = size_K.double() / size_K.sum().clamp(min=1)
    return (lower_bound - share_K).clamp(min=0).sum()


@torch.no_grad()
def dual_statistics(
    dual_K: Tensor, before_K: Tensor | None, dual_lr: float, num_steps: int
) -> dict[str, Tensor]:
    """Range of the duals, and the violation that they allow at most.

    Summed over the T steps of an epoch, ``rho <- max(0, rho - eta (share - bound))`` says that a
    cluster lacks at most ``(rho at the end - rho at the start) / (eta T)`` of the samples; see
    docs/methods/coke.md. ``violation`` of :func:`size_statistics` is not above the sum of that,
    where each sample came once in the epoch.

    Args:
        dual_K: at the end of an epoch (K,).
        before_K: at its start; None if that is not known.
        dual_lr: step size, above 0 where the bound is wanted.
        num_steps: T, steps of the epoch.

    Returns:
        ``min_dual``, ``max_dual``, ``positive_duals``, the share of duals above 0; and
        ``violation_bound``.
    """
    found = dict(
        min_dual=dual_K.min(),
        max_dual=dual_K.max(),
        positive_duals=(dual_K > 0).double().mean(),
    )
    if before_K is not None and dual_lr > 0:
        growth = (dual_K.double() - before_K.double()).clamp(min=0).sum()
        found['violation_bound'] = growth / (dual_lr * num_steps)
    return found


@torch.no_grad()
def similarities(x_ND: Tensor, label_N: Tensor, centers_KD: Tensor) -> dict[str, Tensor]:
    """How near features are to the centers of their clusters.

    Args:
        x_ND: features, of any length (N, D).
        label_N: their clusters, integers (N,); those without a label do not count.
        centers_KD: of the clusters, of any length (K, D).

    Returns:
        ``similarity``, the mean cosine to the own center; ``margin``, the mean of it less that to
        the most similar other center (negative where that one is nearer; none if K = 1); nothing
        if no sample has a label.
    """
    labelled = label_N != UNASSIGNED
    x_ND, label_N1 = x_ND[labelled].float(), label_N[labelled, None].long()
    if not len(x_ND):
        return {}
    similarity_NK = normalize(x_ND, dim=1) @ normalize(centers_KD.float(), dim=1).T
    own_N1 = similarity_NK.gather(1, label_N1)
    found = dict(similarity=own_N1.mean())
    if len(centers_KD) > 1:
        other_N = similarity_NK.scatter(1, label_N1, -torch.inf).amax(1)
        found['margin'] = own_N1.mean() - other_N.mean()
    return found


@torch.no_grad()
def spread(x_ND: Tensor) -> dict[str, Tensor]:
    """How much features differ from one another.

    Args:
        x_ND: features, of any length (N, D).

    Returns:
        ``feature_std``, the standard deviation of a coordinate of the unit features, in the mean
        over coordinates, times sqrt(D): 0 if all features are the same, near 1 if they point
        everywhere (Chen and He, CVPR 2021); ``effective_rank``, the exponential of the entropy of
        the singular values of the centred unit features (Roy and Vetterli, 2007).
    """
    x_ND = normalize(x_ND.float(), dim=1)
    x_ND = x_ND - x_ND.mean(0)
    std_D = x_ND.square().mean(0).sqrt()
    x_DN = x_ND.T if x_ND.shape[0] > x_ND.shape[1] else x_ND
    # Squares of the singular values, in float64, where those that are 0 come out small enough.
    square_R = torch.linalg.eigvalsh(x_DN.double() @ x_DN.double().T)
    value_R = square_R.clamp(min=0).sqrt()
    share_R = value_R / value_R.sum().clamp(min=torch.finfo(torch.float32).tiny)
    entropy = -torch.special.xlogy(share_R, share_R).sum()
    return dict(
        feature_std=std_D.mean() * x_ND.shape[1] ** 0.5,
        # Features that do not differ span nothing.
        effective_rank=torch.where(value_R.sum() > 1e-6, entropy.exp(), 0.0),
    )


@torch.no_grad()
def pair_counts(first_A: Tensor, second_A: Tensor, num_first: int, num_second: int) -> Tensor:
    """How many samples have each pair of labels, int64 (``num_first``, ``num_second``).

    Args:
        first_A, second_A: integers (A,); samples without one or the other do not count.
    """
    # Rows and columns in front for UNASSIGNED: no boolean mask, no wait for a size.
    pair_A = (first_A.long() + 1) * (num_second + 1) + (second_A.long() + 1)
    counts = torch.bincount(pair_A, minlength=(num_first + 1) * (num_second + 1))
    return counts.view(num_first + 1, num_second + 1)[1:, 1:]


@torch.no_grad()
def agreement(count_KL: Tensor) -> dict[str, Tensor]:
    """How well two labelings agree.

    Args:
        count_KL: of :func:`pair_counts`; not all 0.

    Returns:
        ``nmi``, normalized mutual information (arithmetic mean), 1 if both have one cluster;
        ``ari``, adjusted Rand index. As scikit-learn's.
    """
    count_KL = count_KL.double()
    total, of_first, of_second = count_KL.sum(), count_KL.sum(1), count_KL.sum(0)

    def entropy(count: Tensor) -> Tensor:  # in nats
        return total.log() - torch.special.xlogy(count, count).sum() / total

    alone = (entropy(of_first) + entropy(of_second)) / 2
    shared = 2 * alone - entropy(count_KL)
    eps = torch.finfo(torch.float64).eps
    nmi = torch.where(shared > 4 * eps, shared / alone, 0.0)
    together, same_first, same_second = (
        (count * (count - 1)).sum() / 2 for count in (count_KL, of_first, of_second)
    )
    chance = same_first * same_second / (total * (total - 1) / 2).clamp(min=1)
    most = (same_first + same_second) / 2
    # Where nothing could differ, it agrees: one cluster each, or one sample in each.
    ari = torch.where(most > chance, (together - chance) / (most - chance), 1.0)
    return dict(nmi=torch.where(alone > 4 * eps, nmi, 1.0), ari=ari)
