"""Linear classification of frozen features."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

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

    Exact and without a schedule, so for features that fit into memory. By scikit-learn on the CPU;
    features on a GPU stay there, and the minimum is the same.

    Args:
        x_train: features (A, D); memory-mapped arrays will do.
        y_train: labels, int64 (A,).
        x_test: features (B, D).
        c: inverse strength of the L2 penalty.
        max_iter: most iterations of L-BFGS.

    Returns:
        Predicted labels, int64 (B,), on the CPU.

    Raises:
        ValueError: if features are not finite or not of one width, labels are no integers, of
            another length or of one class, or a setting is out of its range.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    check_number('c', c, '(0, inf)')
    check_number('max_iter', max_iter, '[1, inf)', whole=True)
    device = x_train.device if isinstance(x_train, Tensor) else torch.device('cpu')
    x_train, y_train, x_test = as_array(x_train), as_array(y_train), as_array(x_test)
    if y_train.dtype.kind not in 'iu' or y_train.shape != x_train.shape[:1]:
        raise ValueError(
            f'Labels must be {len(x_train)} integers, one for each training sample, but are '
            f'{y_train.dtype} {y_train.shape}.'
        )
    if (y_train == y_train[:1]).all():
        raise ValueError(
            f'The {len(y_train)} training samples are of one class: there is nothing to classify.'
        )
    x_train, x_test = of_usual_size(x_train, x_test)
    scaler = StandardScaler().fit(x_train)
    z_train, z_test = map(scaler.transform, (x_train, x_test))
    if device.type == 'cpu':
        probe = LogisticRegression(C=c, max_iter=max_iter).fit(z_train, y_train)
        return torch.from_numpy(probe.predict(z_test))
    z_train, y_train, z_test = (torch.from_numpy(x).to(device) for x in (z_train, y_train, z_test))
    return fit_and_predict(z_train.double(), y_train.long(), z_test.double(), c, max_iter).cpu()


def linear_probe_folds(
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray,
    *,
    num_folds: int = 5,
    seed: int = 0,
    progress: Callable[[Iterable], Iterable] = iter,
    **options,
) -> Tensor:
    """:func:`linear_probe` of each sample by those of the other folds: stratified cross-validation.

    Args:
        x: features (A, D).
        y: labels, int64 (A,).
        num_folds: parts; at most as many as the smallest class has samples.
        seed: of the parts.
        progress: wraps the iterable of folds, such as ``rich.progress.track``.
        **options: see :func:`linear_probe`.

    Returns:
        Predicted labels, int64 (A,), on the CPU.

    Raises:
        ValueError: if a class has a single sample, or as :func:`linear_probe`.
    """
    from sklearn.model_selection import StratifiedKFold

    labels = as_array(y)
    num_folds = min(num_folds, int(np.unique(labels, return_counts=True)[1].min()))
    if num_folds < 2:
        raise ValueError(
            'A class has a single sample, so none is left to learn it from. Give each class at '
            'least 2 images, or leave it out.'
        )
    parts = StratifiedKFold(num_folds, shuffle=True, random_state=seed).split(labels, labels)
    predicted = torch.empty(len(labels), dtype=torch.int64)
    for train, test in progress(list(parts)):
        predicted[test] = linear_probe(x[train], labels[train], x[test], **options)
    return predicted


def fit_and_predict(
    z_train: Tensor, y_train: Tensor, z_test: Tensor, c: float, max_iter: int
) -> Tensor:
    """Logistic regression by torch's L-BFGS, on any device; labels int64 (B,).

    Args:
        z_train, z_test: standardized features (A, D), (B, D), in double precision.
        y_train: labels, int64 (A,), of at least two classes.
        c, max_iter: see :func:`linear_probe`.
    """
    classes, target = y_train.unique(return_inverse=True)
    weight = z_train.new_zeros(z_train.shape[1], len(classes), requires_grad=True)
    bias = z_train.new_zeros(len(classes), requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=max_iter, tolerance_grad=1e-4, line_search_fn='strong_wolfe'
    )

    def objective() -> Tensor:
        solver.zero_grad()
        loss = cross_entropy(z_train @ weight + bias, target)
        loss = loss + weight.square().sum() / (2 * c * len(z_train))
        loss.backward()
        return loss

    with torch.enable_grad():
        solver.step(objective)
    return classes[(z_test @ weight + bias).detach().argmax(1)]


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
