"""Linear classification of frozen features."""

import numpy as np
import torch
from torch import Tensor

from mmcoke.clustering.precision import power_of_two
from mmcoke.clustering.settings import check_number


def linear_probe(
    x_train: Tensor | np.ndarray,
    y_train: Tensor | np.ndarray,
    x_test: Tensor | np.ndarray,
    *,
    c: float = 1.0,
    max_iter: int = 2000,
) -> Tensor:
    """Logistic regression on standardized features, by L-BFGS to convergence.

    Exact and without a schedule, so for features that fit into memory.

    Args:
        x_train: features (A, D); memory-mapped arrays will do.
        y_train: labels, int64 (A,).
        x_test: features (B, D).
        c: inverse strength of the L2 penalty.
        max_iter: most iterations of L-BFGS.

    Returns:
        Predicted labels, int64 (B,).

    Raises:
        ValueError: if features are not finite or not of one width, labels are no integers, of
            another length or of one class, or a setting is out of its range.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    check_number('c', c, '(0, inf)')
    check_number('max_iter', max_iter, '[1, inf)', whole=True)
    x_train, y_train, x_test = as_array(x_train), as_array(y_train), as_array(x_test)
    if y_train.dtype.kind not in 'iu' or y_train.shape != x_train.shape[:1]:
        raise ValueError(
            f'Labels must be {len(x_train)} integers, one for each training sample, but are '
            f'{y_train.dtype} {y_train.shape}.'
        )
    x_train, x_test = of_usual_size(x_train, x_test)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=max_iter))
    probe.fit(x_train, y_train)
    return torch.from_numpy(probe.predict(x_test))


def of_usual_size(x_train: np.ndarray, x_test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features, each multiplied by a power of 2 where its square leaves the range of float32.

    Standardization takes it off again. Features of usual size are returned as they are.

    Raises:
        ValueError: if a feature is not finite.
    """
    sizes = [np.maximum(x.max(0), -x.min(0).astype(float)) for x in (x_train, x_test)]
    if not all(np.isfinite(size).all() for size in sizes):
        raise ValueError('Features are NaN or infinite. See whether the network has diverged.')
    factor = np.array([power_of_two(size) for size in sizes[0]])
    if (factor == 1).all():
        return x_train, x_test
    return tuple(x.astype(float) * factor for x in (x_train, x_test))


def as_array(x: Tensor | np.ndarray) -> np.ndarray:
    """An array on the CPU."""
    return x.cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
