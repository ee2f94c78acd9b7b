"""Classification by nearest neighbours."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from mmcoke.clustering.precision import unit_rows
from mmcoke.clustering.pseudo_labels import check_integers
from mmcoke.clustering.settings import check_number, is_number

Rows = Tensor | np.ndarray
"""Features (n, D): a tensor, or an array, which may be memory-mapped."""


def knn_classify(
    x_train: Rows,
    y_train: Tensor,
    x_test: Rows,
    *,
    k: int = 20,
    temperature: float = 0.07,
    chunk_size: int = 4096,
) -> Tensor:
    """Weighted vote of the k most similar training samples (Wu et al., CVPR 2018).

    Features are L2-normalized here; a neighbour with cosine similarity s votes with
    exp(s / temperature). Arguments and errors as for :func:`knn_classify_many`.

    Returns:
        Predicted labels, int64 (B,).
    """
    options = dict(temperature=temperature, chunk_size=chunk_size)
    return knn_classify_many(x_train, y_train, x_test, ks=(k,), **options)[k]


@torch.no_grad()
def knn_classify_many(
    x_train: Rows,
    y_train: Tensor,
    x_test: Rows,
    *,
    ks: Sequence[int] = (10, 20, 100, 200),
    temperature: float = 0.07,
    chunk_size: int = 4096,
    device: torch.device | str | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> dict[int, Tensor]:
    """:func:`knn_classify` for several k, with one search of neighbours.

    Args:
        x_train: features (A, D).
        y_train: labels, integers (A,), not negative.
        x_test: features (B, D).
        ks: numbers of neighbours, each at most A.
        temperature: of the votes.
        chunk_size, device, progress: see :func:`nearest_neighbours`.

    Returns:
        Predicted labels by k, int64 (B,), on the device.

    Raises:
        ValueError: if a k is not in 1 ... A, the labels do not fit the features or are negative,
            the temperature is not positive, or as :func:`nearest_neighbours`.
    """
    check_votes(x_train, y_train, ks, temperature)
    found = nearest_neighbours(
        x_train, x_test, max(ks), chunk_size=chunk_size, device=device, progress=progress
    )
    return elected(*found, y_train, ks, temperature, chunk_size)


@torch.no_grad()
def knn_leave_one_out(
    x: Rows,
    y: Tensor,
    *,
    ks: Sequence[int] = (10, 20, 100, 200),
    temperature: float = 0.07,
    chunk_size: int = 4096,
    device: torch.device | str | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> dict[int, Tensor]:
    """:func:`knn_classify_many` of each sample by all the others.

    Args:
        x: features (A, D).
        y: labels, integers (A,), not negative.
        ks: numbers of neighbours, each less than A.
        temperature, chunk_size, device, progress: see :func:`knn_classify_many`.

    Returns:
        Predicted labels by k, int64 (A,), on the device.

    Raises:
        ValueError: as :func:`knn_classify_many`.
    """
    check_votes(x, y, ks, temperature)
    for k in ks:
        check_num_neighbours(k, len(x) - 1)
    options = dict(chunk_size=chunk_size, device=device, progress=progress)
    found = without_self(*nearest_neighbours(x, x, max(ks) + 1, **options))
    return elected(*found, y, ks, temperature, chunk_size)


def without_self(similarity: Tensor, neighbour: Tensor) -> tuple[Tensor, Tensor]:
    """Neighbours of samples among themselves (A, k + 1) without each itself (A, k).

    Where more than k equals of a sample have displaced it, the last neighbour goes instead.
    """
    own = neighbour == torch.arange(len(neighbour), device=neighbour.device)[:, None]
    own[:, -1] |= ~own.any(1)
    return tuple(x[~own].view(len(x), -1) for x in (similarity, neighbour))


def elected(
    similarity: Tensor,
    neighbour: Tensor,
    y_train: Tensor,
    ks: Sequence[int],
    temperature: float,
    chunk_size: int,
) -> dict[int, Tensor]:
    """Labels by weighted votes of neighbours (B, k), as :func:`nearest_neighbours` gives them."""
    # Numbered without gaps: a large label costs no memory.
    classes, y_train = y_train.to(neighbour.device).long().unique(return_inverse=True)
    predictions = {k: [] for k in ks}
    chunks = (x.split(chunk_size) for x in (similarity, neighbour))
    for near, row in zip(*chunks, strict=True):
        # The largest similarity is taken off first: the vote is the same, and exp cannot overflow.
        # In double precision, as good as no order of the sum matters.
        vote = torch.exp((near - near[:, :1]).double() / temperature)
        label = y_train[row]
        for k, predicted in predictions.items():
            votes = vote.new_zeros(len(vote), len(classes))
            votes.scatter_add_(1, label[:, :k], vote[:, :k])
            predicted.append(classes[votes.argmax(1)])
    return {k: torch.cat(predicted) for k, predicted in predictions.items()}


def check_votes(x_train: Rows, y_train: Tensor, ks: Sequence[int], temperature: float) -> None:
    """Refuse what cannot vote; see :func:`knn_classify_many`."""
    for k in ks:
        check_num_neighbours(k, len(x_train))
    if len(y_train) != len(x_train):
        raise ValueError(
            f'{len(y_train)} labels for {len(x_train)} training samples: not one each.'
        )
    check_integers('Labels', y_train, torch.Size([len(x_train)]))
    if y_train.min() < 0:
        raise ValueError(
            f'{int((y_train < 0).sum())} of {len(y_train)} training samples have a negative label, '
            'which is no class. Leave them out.'
        )
    check_number('temperature', temperature, '(0, inf)')


@torch.no_grad()
def nearest_neighbours(
    x_train: Rows,
    x_test: Rows,
    k: int,
    *,
    chunk_size: int = 4096,
    device: torch.device | str | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> tuple[Tensor, Tensor]:
    """The k training samples with the largest cosine similarity, for each test sample.

    On the device are the test features, the neighbours found so far and one chunk of the training
    features; these are read once.

    Args:
        x_train: features (A, D).
        x_test: features (B, D).
        k: number of neighbours, at most A.
        chunk_size: samples of either set at a time; bounds the memory of similarities
            (chunk_size, chunk_size).
        device: where to compute; by default where ``x_test`` is.
        progress: wraps the iterable of training chunks, such as ``rich.progress.track``.

    Returns:
        Similarities, float32 (B, k), from the largest, and rows in ``x_train``, int64 (B, k). Which
        of equally similar samples come first is not defined.

    Raises:
        ValueError: if k is not in 1 ... A, the features are no tables of one width, or a row has
            no direction: it is not finite, or all 0.
    """
    check_num_neighbours(k, len(x_train))
    check_number('chunk_size', chunk_size, '[1, inf)', whole=True)
    check_widths(x_train, x_test)
    test_BD = directions(x_test, device)
    best_Bk = test_BD.new_full((len(test_BD), k), -torch.inf)
    neighbour_Bk = torch.zeros_like(best_Bk, dtype=torch.int64)
    for first in progress(range(0, len(x_train), chunk_size)):
        train_nD = directions(x_train[first : first + chunk_size], test_BD.device)
        chunks = (x.split(chunk_size) for x in (test_BD, best_Bk, neighbour_Bk))
        for test, best, neighbour in zip(*chunks, strict=True):
            found, row = (test @ train_nD.T).topk(min(k, len(train_nD)), dim=1)
            found, order = torch.cat([best, found], 1).topk(k, dim=1)
            best.copy_(found)
            neighbour.copy_(torch.cat([neighbour, row + first], 1).gather(1, order))
    return best_Bk, neighbour_Bk


def check_num_neighbours(k: int, num_train: int) -> None:
    """ValueError if there are not so many training samples."""
    if not is_number(k, whole=True) or not 1 <= k <= num_train:
        raise ValueError(f'k must be in 1 ... {num_train} (training samples), but is {k}.')


def check_widths(x_train: Rows, x_test: Rows) -> None:
    """ValueError unless both are tables with equally many features."""
    shapes = tuple(x_train.shape), tuple(x_test.shape)
    if any(len(shape) != 2 for shape in shapes) or shapes[0][1] != shapes[1][1]:
        raise ValueError(
            f'Features must be (A, D) and (B, D), but are {shapes[0]} and {shapes[1]}. Extract '
            'both with the same network.'
        )


def directions(x: Rows, device: torch.device | str | None) -> Tensor:
    """Features, L2-normalized, in float32 on a device; ValueError where a row has no direction."""
    # A memory-mapped array is copied: torch warns about memory that it may not write.
    x = x if isinstance(x, Tensor) else torch.tensor(x)
    x_nD = unit_rows(x.to(device))
    no_direction = int((~(x_nD.norm(dim=1) > 0.5)).sum())
    if no_direction:
        raise ValueError(
            f'{no_direction} of {len(x_nD)} samples have features that are NaN or infinite, or all '
            '0, and so no nearest neighbours. Leave them out, or see whether the network has '
            'diverged.'
        )
    return x_nD
