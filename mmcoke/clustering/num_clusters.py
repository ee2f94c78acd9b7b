r"""How many clusters features have: a sweep of K, and what can be said after it.

Each K is judged on samples that its centers have not seen. The samples are halved; k-means finds K
centers in each half, and the other half tells

- the **silhouette** of the centers: (b - a) / max(a, b), with a and b the cosine distances to the
  nearest center and the second nearest (Rousseeuw 1987, simplified to centers: Hruschka, de Castro
  and Campello 2004). On samples of its own it would rise without end as clusters get small;
- the **stability**: how well the labels by the centers of the two halves agree on all samples, as
  adjusted Rand index (Lange, Roth, Braun and Buhmann 2004; von Luxburg 2010).

What these are worth is seen on a reference without clusters: as many samples of one Gaussian with
the mean and the covariance of the features (the idea of the gap statistic: Tibshirani, Walther and
Hastie 2001), on the sphere as they are.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .diagnostics import agreement, pair_counts
from .kmeans import kmeans
from .precision import unit_rows
from .settings import SEED_RANGE, check_number
from .streaming_kmeans import far_rows

FEWEST = 60
"""Samples for a sweep: with fewer, halves have nothing to say."""

PER_CLUSTER = 20
"""Samples for a cluster, at least: 10 in a half."""

RATIO = 2**0.25
"""Between two K of a sweep, where they are not next to each other anyway."""

LEAST_GAP = 0.1
"""By so much a silhouette must surpass that of the reference to be one of clusters."""

LEAST_STABILITY = 0.5
"""Below, the two halves find different clusters."""

TOLERANCE = 0.02
"""Silhouettes that differ by less are taken for equal."""

RESTARTS, MOST_RESTARTED = 4, 64
"""Starts of k-means, of which the best counts, up to this K."""

CHUNK = 1024


class Scores(NamedTuple):
    """What a number of clusters is like; medians over the halvings.

    Attributes:
        num_clusters: K.
        silhouette, stability: of the samples; see the module.
        reference_silhouette, reference_stability: of the reference without clusters.
        similarity: mean cosine of samples to the nearest center of the other half: the objective.
        smallest: samples in the smallest cluster, of all.
        nmi, ari: agreement with classes; None without. A diagnosis, which decides nothing.
    """

    num_clusters: int
    silhouette: float
    stability: float
    reference_silhouette: float
    reference_stability: float
    similarity: float
    smallest: int
    nmi: float | None = None
    ari: float | None = None

    @property
    def gap(self) -> float:
        """By how much the silhouette surpasses that of the reference."""
        return self.silhouette - self.reference_silhouette


class Suggestion(NamedTuple):
    """What a sweep says.

    Attributes:
        num_clusters: K; None if the features have no preferred number.
        as_good: least and largest K whose silhouette is within :data:`TOLERANCE` of the largest
            one; None without K.
        reason: in a sentence or two.
    """

    num_clusters: int | None
    as_good: tuple[int, int] | None
    reason: str


def numbers_to_try(num_samples: int, most: int | None = None) -> list[int]:
    """Numbers of clusters from 2 on, next to each other at first, then by factors of 2^(1/4).

    Args:
        num_samples: A, at least :data:`FEWEST`.
        most: the largest; None for a cluster per :data:`PER_CLUSTER` samples.

    Raises:
        ValueError: if there are too few samples, or for the largest number.
    """
    if num_samples < FEWEST:
        raise ValueError(
            f'{num_samples} samples are too few to see how many clusters there are: at least '
            f'{FEWEST} are needed.'
        )
    limit = num_samples // PER_CLUSTER
    if most is None:
        most = limit
    elif not 2 <= most <= limit:
        raise ValueError(
            f'The largest number of clusters must be in 2 ... {limit}, a cluster per '
            f'{PER_CLUSTER} of {num_samples} samples, but is {most}.'
        )
    found = [2]
    while found[-1] < most:
        found.append(min(max(found[-1] + 1, round(found[-1] * RATIO)), most))
    return found


def between(scores: Sequence[Scores], most: int = 4) -> list[int]:
    """Numbers that were not tried, next to the one with the largest silhouette.

    Args:
        scores: of increasing numbers.
        most: as many on each side at most.
    """
    tried = [one.num_clusters for one in scores]
    best = max(range(len(scores)), key=lambda i: scores[i].silhouette)
    found: set[int] = set()
    for low, high in zip(tried[max(best - 1, 0) :], tried[max(best, 1) : best + 2], strict=False):
        step = max(1, -(-(high - low) // (most + 1)))
        found |= set(range(low + step, high, step))
    return sorted(found)


@torch.no_grad()
def sweep(
    x_AD: Tensor,
    numbers: Sequence[int],
    *,
    classes: Tensor | None = None,
    num_repeats: int = 3,
    seed: int = 0,
    progress: Callable[[Iterable], Iterable] = iter,
) -> list[Scores]:
    """Scores of numbers of clusters; the same for the same arguments on the same machine.

    Args:
        x_AD: features of any length but 0 (A, D), A at least :data:`FEWEST`.
        numbers: of clusters, each in 2 ... A // :data:`PER_CLUSTER`.
        classes: of the samples, integers (A,), for a diagnosis.
        num_repeats: halvings.
        seed: of all that is drawn.
        progress: wraps the iterable of numbers, such as ``rich.progress.track``.

    Raises:
        ValueError: if features are zero or not finite, or a number is out of its range.
    """
    check_number('seed', seed, SEED_RANGE, whole=True)
    x_AD = unit_rows(x_AD)
    numbers_to_try(len(x_AD), max(numbers))
    if not x_AD.isfinite().all() or (x_AD == 0).all(1).any():
        raise ValueError('Features are zero or not finite, and have no direction. Leave them out.')
    generator = torch.Generator().manual_seed(seed)
    halves = [halved(len(x_AD), generator) for _ in range(num_repeats)]
    reference_AD = reference(x_AD, generator)
    return [
        scores_of(x_AD, reference_AD, num_clusters, halves, classes, seed)
        for num_clusters in progress(numbers)
    ]


def halved(num_samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows of two halves."""
    order = torch.randperm(num_samples, generator=generator)
    return order[: num_samples // 2], order[num_samples // 2 :]


def reference(x_AD: Tensor, generator: torch.Generator) -> Tensor:
    """As many unit vectors without clusters: of a Gaussian with the same mean and covariance."""
    mean_D = x_AD.mean(0)
    centred_AD = (x_AD - mean_D) / len(x_AD) ** 0.5
    # A random combination of all rows: no D x D covariance is needed.
    parts = [
        torch.randn(len(rows), len(x_AD), generator=generator).to(x_AD) @ centred_AD
        for rows in x_AD.split(CHUNK)
    ]
    return normalize(torch.cat(parts) + mean_D, dim=1)


def scores_of(
    x_AD: Tensor,
    reference_AD: Tensor,
    num_clusters: int,
    halves: Sequence[tuple[Tensor, Tensor]],
    classes: Tensor | None,
    seed: int,
) -> Scores:
    """Scores of one number; see :func:`sweep`."""
    found = [halves_compared(x_AD, num_clusters, half, classes, seed) for half in halves]
    middle = {name: median([one[name] for one in found]) for name in found[0]}
    none = halves_compared(reference_AD, num_clusters, halves[0], None, seed)
    return Scores(
        num_clusters,
        middle['silhouette'],
        middle['stability'],
        none['silhouette'],
        none['stability'],
        middle['similarity'],
        int(middle['smallest']),
        middle.get('nmi'),
        middle.get('ari'),
    )


def median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def halves_compared(
    x_AD: Tensor,
    num_clusters: int,
    halves: tuple[Tensor, Tensor],
    classes: Tensor | None,
    seed: int,
) -> dict[str, float]:
    """Scores of one halving: centers of each half, judged by the other."""
    labels, silhouettes, similarities = [], [], []
    for number, (own, other) in enumerate((halves, halves[::-1])):
        centers_KD = best_centers(x_AD[own], num_clusters, 2 * seed + number)
        nearest = (x_AD @ centers_KD.T).topk(2, dim=1)
        distance_A2 = (1 - nearest.values).clamp(min=0)
        width_A = 1 - distance_A2[:, 0] / distance_A2[:, 1].clamp(min=1e-12)
        labels.append(nearest.indices[:, 0])
        silhouettes.append(width_A[other].mean().item())
        similarities.append(nearest.values[other, 0].mean().item())
    stability = agreement(pair_counts(*labels, num_clusters, num_clusters))['ari']
    found = dict(
        silhouette=sum(silhouettes) / 2,
        stability=stability.item(),
        similarity=sum(similarities) / 2,
        smallest=labels[0].bincount(minlength=num_clusters).min().item(),
    )
    if classes is not None:
        counts = pair_counts(labels[0], classes, num_clusters, int(classes.max()) + 1)
        found |= {name: value.item() for name, value in agreement(counts).items()}
    return found


def best_centers(x_AD: Tensor, num_clusters: int, seed: int) -> Tensor:
    """Centers of spherical k-means with the least objective of a few starts (K, D)."""
    starts = RESTARTS if num_clusters <= MOST_RESTARTED else 1
    runs = []
    for start in range(starts):
        rows = far_rows(x_AD.cpu(), num_clusters, (RESTARTS * seed + start) % 2**32)
        runs.append(kmeans(x_AD, num_clusters, spherical=True, init=x_AD[rows.to(x_AD.device)]))
    return min(runs, key=lambda run: run.objective).centers.to(x_AD)


# ---- what follows


def suggest(scores: Sequence[Scores]) -> Suggestion:
    """The most stable of the numbers with the largest silhouettes, if these are clusters at all.

    Args:
        scores: of :func:`sweep`, by increasing numbers.
    """
    top = max(scores, key=lambda one: one.silhouette)
    if top.gap < LEAST_GAP:
        return no_number(
            f'the silhouette is not larger than that of a Gaussian without clusters by {LEAST_GAP} '
            f'or more where it is largest (K = {top.num_clusters}: {top.silhouette:.3f}, and '
            f'{top.reference_silhouette:.3f}).'
        )
    near = as_good(scores, top)
    best = max(near, key=lambda one: one.stability)
    if best.stability < LEAST_STABILITY:
        return no_number(
            f'the silhouette is largest at K = {top.num_clusters} ({top.silhouette:.3f}), but two '
            f'halves of the images find different clusters there (ARI {best.stability:.2f}).'
        )
    return Suggestion(
        best.num_clusters,
        (near[0].num_clusters, near[-1].num_clusters),
        reason_for(best, near, scores[-1].num_clusters),
    )


def no_number(why: str) -> Suggestion:
    """That there is none, and why."""
    text = 'These features have no preferred number of clusters: '
    return Suggestion(None, None, f'{text}{why} Choose K by what it is for.')


def reason_for(best: Scores, near: Sequence[Scores], most: int) -> str:
    """Why this one: a sentence or two."""
    low, high = near[0].num_clusters, near[-1].num_clusters
    is_one = len(near) == 1
    which = 'the largest silhouette' if is_one else 'one of the largest silhouettes'
    others = '' if is_one else f', most alike of {low} to {high}, whose silhouettes hardly differ'
    text = (
        f'K = {best.num_clusters} has {which} on images that its centers have not seen, '
        f'{best.silhouette:.3f} (a Gaussian without clusters: {best.reference_silhouette:.3f}), '
        f'and two halves of the images find the same clusters to ARI {best.stability:.2f}{others}.'
    )
    if high == most:
        text += f' {most} is the largest that was tried: there may be more, see --max-clusters.'
    return text


def as_good(scores: Sequence[Scores], best: Scores) -> Sequence[Scores]:
    """The run of numbers around the best one whose silhouettes are within :data:`TOLERANCE`."""
    low = high = next(i for i, one in enumerate(scores) if one is best)
    while low and best.silhouette - scores[low - 1].silhouette < TOLERANCE:
        low -= 1
    while high + 1 < len(scores) and best.silhouette - scores[high + 1].silhouette < TOLERANCE:
        high += 1
    return scores[low : high + 1]
