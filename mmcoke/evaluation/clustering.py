"""How well clusters agree with classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from scipy.sparse import csr_array

CHUNK_SIZE = 1 << 22
MAX_SPAN = 1 << 24
"""Labels that are spread wider than that are numbered anew, by sorting them."""


def clustering_scores(label: ArrayLike, target: ArrayLike) -> dict[str, float]:
    """Accuracy under the best one-to-one matching, NMI and ARI.

    Args:
        label: cluster of each sample, integers (A,).
        target: class of each sample, integers (A,).

    Returns:
        ``acc``, the share of samples whose cluster is matched to their class (Hungarian method);
        ``nmi``, normalized mutual information (arithmetic mean); ``ari``, adjusted Rand index.

    Raises:
        ValueError: if the lengths differ, there are no samples, or the labels are no integers.
    """
    counts = contingency(target, label)
    used = counts[counts.sum(1) > 0][:, counts.sum(0) > 0].toarray()
    return dict(
        acc=matched_share(used),
        nmi=mutual_information(counts),
        ari=adjusted_rand(counts),
    )


def matched_share(counts: np.ndarray) -> float:
    """Share of samples whose cluster is matched to their class, one to one, as well as can be.

    Args:
        counts: samples with each pair of class and cluster.
    """
    from scipy.optimize import linear_sum_assignment

    return float(counts[linear_sum_assignment(counts, maximize=True)].sum() / counts.sum())


def contingency(target: ArrayLike, label: ArrayLike) -> csr_array:
    """How many samples have each pair of class and cluster; int64, sparse.

    In chunks, so that little memory is needed beside the labels. Rows and columns may be empty.

    Raises:
        ValueError: as :func:`clustering_scores`.
    """
    from scipy.sparse import coo_array, csr_array

    label, target = np.asarray(label), np.asarray(target)
    if label.shape != target.shape or label.ndim != 1 or not label.size:
        raise ValueError(
            f'label and target must have the same length > 0, but are {label.shape}, '
            f'{target.shape}.'
        )
    (rows, first_row, num_rows), (columns, first_column, num_columns) = map(
        numbered, (target, label)
    )
    counts = csr_array((num_rows, num_columns), dtype=np.int64)
    for begin in range(0, len(rows), CHUNK_SIZE):
        chunk = slice(begin, begin + CHUNK_SIZE)
        pairs = (
            rows[chunk].astype(np.int64) - first_row,
            columns[chunk].astype(np.int64) - first_column,
        )
        ones = np.ones(len(pairs[0]), np.int64)
        counts = counts + coo_array((ones, pairs), shape=counts.shape).tocsr()
    return counts


def numbered(labels: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Labels, the least of them, and how many numbers there are from it to the largest."""
    if labels.dtype.kind not in 'iu':
        raise ValueError(f'label and target must be integers, but there are {labels.dtype}.')
    low, high = int(labels.min()), int(labels.max())
    if high - low < MAX_SPAN and high < 2**63:
        return labels, low, high - low + 1
    values, index = np.unique(labels, return_inverse=True)
    return index, 0, len(values)


def mutual_information(counts: csr_array) -> float:
    """Normalized mutual information of a contingency table, from 0 to 1; 1 for one cluster each."""
    from sklearn.metrics import mutual_info_score

    entropies = [entropy(counts.sum(axis)) for axis in (1, 0)]
    if counts.nnz == 1:
        return 1.0
    shared = mutual_info_score(None, None, contingency=counts)
    return float(shared / np.mean(entropies)) if shared > np.finfo(float).eps else 0.0


def entropy(sizes: np.ndarray) -> float:
    """Entropy of clusters of these sizes, in nats."""
    sizes = sizes[sizes > 0].astype(float)
    total = sizes.sum()
    return -np.sum(sizes / total * (np.log(sizes) - np.log(total)))


def adjusted_rand(counts: csr_array) -> float:
    """Adjusted Rand index of a contingency table, from pairs of samples."""
    num_samples = int(counts.sum())
    together = int((counts.data**2).sum())
    same_row, same_column = (int((counts.sum(axis) ** 2).sum()) for axis in (1, 0))
    both, only_row, only_column = (
        together - num_samples,
        same_row - together,
        same_column - together,
    )
    neither = num_samples**2 - both - only_row - only_column - num_samples
    if not only_row and not only_column:
        return 1.0
    chance = (both + only_row) * (only_row + neither) + (both + only_column) * (
        only_column + neither
    )
    return 2 * (both * neither - only_row * only_column) / chance
