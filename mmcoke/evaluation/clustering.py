"""How well clusters agree with classes."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix


def clustering_scores(label: ArrayLike, target: ArrayLike) -> dict[str, float]:
    """Accuracy under the best one-to-one matching, NMI and ARI.

    Args:
        label: cluster of each sample, integers (A,).
        target: class of each sample, integers (A,).

    Returns:
        ``acc``, the share of samples whose cluster is matched to their class (Hungarian method);
        ``nmi``, normalized mutual information (arithmetic mean); ``ari``, adjusted Rand index.

    Raises:
        ValueError: if the lengths differ or there are no samples.
    """
    label, target = np.asarray(label), np.asarray(target)
    if label.shape != target.shape or not label.size:
        raise ValueError(
            f'label and target must have the same length > 0, but are {label.shape}, '
            f'{target.shape}.'
        )
    counts = contingency_matrix(target, label)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    return dict(
        acc=float(counts[rows, columns].sum() / label.size),
        nmi=float(normalized_mutual_info_score(target, label)),
        ari=float(adjusted_rand_score(target, label)),
    )
