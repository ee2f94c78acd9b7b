"""The VOC07 SVM protocol: linear SVMs on frozen features, with all training images and with few.

Goyal et al., Scaling and Benchmarking Self-Supervised Visual Representation Learning, ICCV 2019,
with the costs of OpenMMLab's published figures: for each class a linear SVM (squared hinge, L2,
positives count twice, intercept regularized) on L2-normalized features.

Shapes: A training images, B test images, D features, K classes, C costs, N shots, S samples.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from mmcoke.clustering.settings import check_number
from mmcoke.datasets.voc import ABSENT, IGNORED, PRESENT
from mmcoke.files import plain, read_json, write_text

from .kernel_svm import kernel_svms

COSTS = (1.0, 10.0, 100.0, *(0.5**power for power in range(4, 20)))
"""The 19 costs of OpenMMLab's published figures."""

SHOTS = (1, 2, 4, 8, 16, 32, 64, 96)
NUM_FOLDS = 3
POSITIVE_WEIGHT = 2.0

TINY_LENGTH = 1e-3
"""Features that are all shorter than that are refused: 1e-5 would be 1 % of them or more."""


def voc_svm(
    features_train: ArrayLike | Tensor,
    targets_train: ArrayLike,
    features_test: ArrayLike | Tensor,
    targets_test: ArrayLike,
    *,
    costs: Sequence[float] = COSTS,
    parity: bool = False,
    folder: str | Path | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> dict:
    """Average precision of linear SVMs; each class's cost is chosen by 3-fold cross-validation.

    Ignored images are left out of the test, and of training unless ``parity``. A class with two
    positives (the devkit has more) is cross-validated in two folds.

    Args:
        features_train: (A, D), not normalized; a memory-mapped array will do. A tensor is worked on
            where it lies: on a GPU, if it is there.
        targets_train: 1 present, 0 absent, -1 ignored (A, K).
        features_test, targets_test: (B, D), (B, K).
        costs: candidates; of equally good ones the first wins.
        parity: count ignored training images as negatives, as the published tools do.
        folder: for a file per class; a second run goes on from those that are there.
        progress: wraps the iterable of classes, such as ``rich.progress.track``.

    Returns:
        ``mean_ap``; ``ap`` (K,), on the test images, under the precision envelope; ``cost`` (K,);
        ``cross_validated_ap`` (K, C).

    Raises:
        ValueError: if the arrays do not fit together or hold other values, or if a class has too
            few positives or negatives.
    """
    targets_train, targets_test = check_targets(targets_train), check_targets(targets_test)
    costs = check_costs(costs)
    if parity:
        targets_train = np.where(targets_train == IGNORED, ABSENT, targets_train)
    check_classes(targets_train, targets_test, num_positives=2)
    products = Products.of(features_train, features_test, len(targets_train), len(targets_test))

    def solve(k: int) -> dict:
        coef_CA, cross_validated_C = fit(products.train, targets_train[:, k], costs)
        best = int(cross_validated_C.argmax())
        ap = test_aps(targets_test[:, k], products.test @ coef_CA[best, :, None])
        return dict(ap=ap[0], cost=costs[best], cross_validated_ap=cross_validated_C)

    store = Store(folder, features_train, targets_train, features_test, targets_test, costs)
    solve_stored = partial(store.get, compute=solve)
    results = for_each(targets_test.shape[1], solve_stored, products, progress)
    columns = {name: np.array([result[name] for result in results]) for name in results[0]}
    return dict(mean_ap=float(columns['ap'].mean())) | columns


def low_shot_svm(
    features_train: ArrayLike | Tensor,
    targets_train: ArrayLike | Mapping[int, ArrayLike],
    features_test: ArrayLike | Tensor,
    targets_test: ArrayLike,
    *,
    costs: Sequence[float] = COSTS,
    folder: str | Path | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> dict:
    """Mean average precision of SVMs that see k positives and 19k negatives of each class.

    Ignored images are left out of training and test. The cost, one for all classes, is chosen in
    two ways. The published one takes the best mean *test* AP, so its figures are too good. The
    other takes, for each sample, the best cross-validated AP (3 folds; 2 for k = 2), averaged over
    the classes; k = 1 cannot be cross-validated.

    Args:
        features_train, features_test, targets_test, costs, folder, progress: see :func:`voc_svm`.
        targets_train: (A, K), from which :func:`low_shot_samples` draws 5 samples for each k of
            1 ... 96; or what that function has returned.

    Returns:
        ``shots`` (N,); ``ap`` (N, S, C), the mean over classes; its ``ap_mean``, ``ap_min``,
        ``ap_max``, ``ap_std`` over samples (N, C). ``by_test_ap`` and ``by_cross_validation`` have
        for each k the chosen ``cost`` (the latter one per sample), and ``mean``, ``min``, ``max``
        and ``std`` of the samples' APs; None where there is no cross-validation.

    Raises:
        ValueError: see :func:`voc_svm` and :func:`low_shot_samples`.
    """
    targets_test, costs = check_targets(targets_test), check_costs(costs)
    if not isinstance(targets_train, Mapping):
        targets_train = low_shot_samples(targets_train)
    samples = {k: [check_targets(x) for x in drawn] for k, drawn in targets_train.items()}
    for targets_AK in chain(*samples.values()):
        check_classes(targets_AK, targets_test, num_positives=1)
    products = Products.of(features_train, features_test, len(targets_AK), len(targets_test))

    def solve(k: int) -> dict:
        aps = [
            [low_shot_aps(products, x[:, k], targets_test[:, k], costs) for x in drawn]
            for drawn in samples.values()
        ]
        ap, cross_validated = np.moveaxis(aps, 2, 0)
        return dict(ap=ap, cross_validated_ap=cross_validated)

    arrays = (np.array(list(samples)), *map(np.array, samples.values()))
    store = Store(folder, features_train, *arrays, features_test, targets_test, costs)
    solve_stored = partial(store.get, compute=solve)
    results = for_each(targets_test.shape[1], solve_stored, products, progress)
    ap, cross_validated = (
        np.array([result[name] for result in results], float).mean(0)
        for name in ('ap', 'cross_validated_ap')
    )
    return summary(list(samples), ap, cross_validated, costs)


def low_shot_samples(
    targets: ArrayLike, *, shots: Sequence[int] = SHOTS, num_samples: int = 5, seed: int = 0
) -> dict[int, np.ndarray]:
    """Draw small training sets: for each class k positives and ``(K - 1) k`` negatives.

    Each set depends on seed, k and its number alone, whatever the other ``shots`` are.

    Args:
        targets: 1 present, 0 absent, -1 ignored (A, K).
        shots: values of k.

    Returns:
        For each k the targets (S, A, K), -1 where an image was not drawn for a class.

    Raises:
        ValueError: if a k is below 1, or a class has too few positives or negatives.
    """
    for k in shots:
        check_number('shots', k, '[1, inf)', whole=True)
    check_number('num_samples', num_samples, '[1, inf)', whole=True)
    check_number('seed', seed, '[0, inf)', whole=True)
    targets_AK = check_targets(targets)
    num_classes = targets_AK.shape[1]
    samples = {}
    for k in shots:
        check_classes(targets_AK, None, num_positives=k, num_negatives=(num_classes - 1) * k)
        samples[k] = np.full((num_samples, *targets_AK.shape), IGNORED, np.int8)
        for number, sample_AK in enumerate(samples[k]):
            random = np.random.default_rng([seed, k, number])
            for value, size in ((PRESENT, k), (ABSENT, (num_classes - 1) * k)):
                for c in range(num_classes):
                    rows = np.flatnonzero(targets_AK[:, c] == value)
                    sample_AK[random.choice(rows, size, replace=False), c] = value
    return samples


# ---- one class


class Products(NamedTuple):
    """Inner products of normalized features with those of the training images, float64.

    All that an SVM needs. The intercept is one more feature, 1 in each image.
    """

    train: Tensor
    """(A, A)"""
    test: Tensor
    """(B, A)"""

    @classmethod
    def of(
        cls,
        features_train: ArrayLike | Tensor,
        features_test: ArrayLike | Tensor,
        num_train: int,
        num_test: int,
    ) -> 'Products':
        """Products of features, each divided by its norm + 1e-5 as in the published tools.

        Raises:
            ValueError: if the features are not finite or not of so many images.
        """
        train = unit_rows(features_train, num_train, 'features_train')
        test = unit_rows(features_test, num_test, 'features_test')
        if train.shape[1] != test.shape[1]:
            raise ValueError(
                f'features_train are {train.shape[1]} numbers per image, features_test '
                f'{test.shape[1]}. Extract both with the same network.'
            )
        return cls(train @ train.T + 1, test @ train.T + 1)

    def of_rows(self, rows: np.ndarray) -> 'Products':
        """Those of some training images only."""
        index = torch.from_numpy(rows).to(self.train.device)
        return Products(self.train[index[:, None], index], self.test[:, index])


def unit_rows(features: ArrayLike | Tensor, num_rows: int, name: str) -> Tensor:
    """Features in float64, of norm 1; see :meth:`Products.of`."""
    x = features if isinstance(features, Tensor) else torch.from_numpy(np.array(features))
    if x.ndim != 2 or len(x) != num_rows:
        raise ValueError(
            f'{name} are {tuple(x.shape)}, but there are targets of {num_rows} images.'
        )
    x = x.detach().double()
    if not torch.isfinite(x).all():
        raise ValueError(f'{name} are not all finite. See whether the network has diverged.')
    length = x.norm(dim=1, keepdim=True)
    if not TINY_LENGTH < length.max() < np.inf:
        raise ValueError(
            f'{name} have lengths of {length.max():.1e} at most, where the published 1e-5 that is '
            'added to them counts, or more than float64 holds. Multiply all features by a constant.'
        )
    return x / (length + 1e-5)


def fit(
    kernel_AA: Tensor, targets_A: np.ndarray, costs: Sequence[float]
) -> tuple[Tensor, np.ndarray]:
    """SVMs on all images that are not ignored, and how good each cost is by cross-validation.

    Args:
        kernel_AA: inner products of the images.
        targets_A: 1, 0, or -1 for ignored images.

    Returns:
        Coefficients (C, A), and the average precision, mean over folds (C,); NaN if there is only
        one positive or negative.
    """
    from sklearn.metrics import average_precision_score

    folds = split(targets_A)
    weight_A = (targets_A != IGNORED) * np.where(targets_A == PRESENT, POSITIVE_WEIGHT, 1.0)
    weight_AM = np.tile(weight_A[:, None], 1 + len(folds))
    for j, held_out in enumerate(folds):
        weight_AM[held_out, 1 + j] = 0
    sign_A = np.where(targets_A == PRESENT, 1.0, -1.0)
    sign_A, weight_AM = (torch.from_numpy(x).to(kernel_AA.device) for x in (sign_A, weight_AM))
    coef_CAM, score_CAM = kernel_svms(kernel_AA, sign_A, weight_AM, costs)
    score_CAM = score_CAM.cpu().numpy()
    ap_FC = [
        [average_precision_score(targets_A[rows], score) for score in score_CAM[:, rows, 1 + j]]
        for j, rows in enumerate(folds)
    ]
    return coef_CAM[:, :, 0], np.mean(ap_FC or [[np.nan] * len(costs)], axis=0)


def split(targets_A: np.ndarray) -> list[np.ndarray]:
    """Images held out of each fold: those of ``cross_val_score(cv=3)`` without ignored images."""
    from sklearn.model_selection import StratifiedKFold

    rows = np.flatnonzero(targets_A != IGNORED)
    label = targets_A[rows]
    num_folds = min(NUM_FOLDS, *np.bincount(label, minlength=2))
    if num_folds < 2:
        return []
    return [rows[held_out] for _, held_out in StratifiedKFold(num_folds).split(label, label)]


def low_shot_aps(
    products: Products, targets_A: np.ndarray, targets_B: np.ndarray, costs: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Test APs, and cross-validated APs, of one class and one small training set (C,)."""
    rows = np.flatnonzero(targets_A != IGNORED)
    part = products.of_rows(rows)
    coef_CA, cross_validated_C = fit(part.train, targets_A[rows], costs)
    return test_aps(targets_B, part.test @ coef_CA.T), cross_validated_C


def test_aps(targets_B: np.ndarray, score_BC: Tensor) -> np.ndarray:
    """Average precision of each column of scores, without ignored images (C,)."""
    kept = targets_B != IGNORED
    return envelope_ap(targets_B[kept] == PRESENT, score_BC.cpu().numpy()[kept])


test_aps.__test__ = False  # no test, whatever pytest thinks of the name


def envelope_ap(present_B: np.ndarray, score_BC: np.ndarray) -> np.ndarray:
    """Area under the envelope of the precision-recall curve, as VOC has it since 2010 (C,).

    Precision at a recall is the best at that recall or any higher one. Of images with equal scores
    the last comes first.
    """
    order_BC = np.argsort(score_BC, axis=0, kind='stable')[::-1]
    hit_BC = present_B[order_BC]
    precision_BC = hit_BC.cumsum(0) / np.arange(1, len(hit_BC) + 1)[:, None]
    envelope_BC = np.maximum.accumulate(precision_BC[::-1])[::-1]
    return (envelope_BC * hit_BC).sum(0) / present_B.sum()


# ---- all classes


def for_each(
    num_classes: int,
    solve: Callable[[int], dict],
    products: Products,
    progress: Callable[[Iterable], Iterable],
) -> list[dict]:
    """What ``solve(k)`` returns for each class, on all cores; all share the products.

    On CPU each class has its own thread: threads within a product of matrices would wait for
    each other.
    """
    before = torch.get_num_threads()
    num_workers = 1 if products.train.is_cuda else min(before, num_classes)
    torch.set_num_threads(max(1, before // num_workers))
    pool = ThreadPoolExecutor(num_workers)
    try:
        jobs = [pool.submit(solve, k) for k in range(num_classes)]
        return [job.result() for job in progress(jobs)]
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def summary(
    shots: list[int], ap_NSC: np.ndarray, cross_validated_NSC: np.ndarray, costs: Sequence[float]
) -> dict:
    """What :func:`low_shot_svm` returns, of means over classes."""

    def describe(ap_S: np.ndarray, cost: float | list[float]) -> dict:
        names = ('mean', 'min', 'max', 'std')
        return dict(cost=cost) | {name: float(getattr(ap_S, name)()) for name in names}

    by_test_ap, by_cross_validation = [], []
    for ap_SC, cross_validated_SC in zip(ap_NSC, cross_validated_NSC, strict=True):
        best = ap_SC.mean(0).argmax()
        by_test_ap.append(describe(ap_SC[:, best], costs[best]))
        best_S = cross_validated_SC.argmax(1)
        ap_S = ap_SC[np.arange(len(best_S)), best_S]
        known = np.isfinite(cross_validated_SC).all()
        by_cross_validation.append(describe(ap_S, [costs[i] for i in best_S]) if known else None)
    spread = {name: getattr(ap_NSC, name)(1) for name in ('mean', 'min', 'max', 'std')}
    return dict(
        shots=shots,
        ap=ap_NSC,
        **{f'ap_{name}': value for name, value in spread.items()},
        by_test_ap=by_test_ap,
        by_cross_validation=by_cross_validation,
    )


class Store:
    """Results of classes as JSON files, each valid for certain arrays only.

    Args:
        folder: where they go; None to keep nothing.
        arrays: all that the results depend on.
    """

    def __init__(self, folder: str | Path | None, *arrays: ArrayLike | Tensor) -> None:
        self.folder = None if folder is None else Path(folder)
        self.key = '' if folder is None else digest(arrays)

    def get(self, k: int, compute: Callable[[int], dict]) -> dict:
        """The result of class k: that in the file, if it is of the same arrays, or computed now."""
        if self.folder is None:
            return compute(k)
        path = self.folder / f'class_{k:02d}.json'
        if path.is_file():
            record = read_json(path, 'key', 'result')
            if record['key'] == self.key:
                return record['result']
        record = plain(dict(key=self.key, result=compute(k)))
        write_text(path, json.dumps(record))
        return record['result']


def digest(arrays: Iterable[ArrayLike | Tensor]) -> str:
    """Hash of the values, types and shapes of arrays."""
    total = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array.cpu() if isinstance(array, Tensor) else array)
        total.update(f'{array.dtype} {array.shape}'.encode())
        total.update(array.data)
    return total.hexdigest()


# ---- checks


def check_targets(targets: ArrayLike) -> np.ndarray:
    """Targets as integers (A, K).

    Raises:
        ValueError: if they are of another shape or hold other values than 1, 0 and -1.
    """
    values = np.asarray(targets)
    if values.ndim != 2 or not values.size or not np.isin(values, (PRESENT, ABSENT, IGNORED)).all():
        raise ValueError(
            'targets must be a matrix (images, classes) of 1 (present), 0 (absent) and -1 '
            f'(ignored); got shape {values.shape}, values {np.unique(values)[:5]}.'
        )
    return values.astype(np.int64)


def check_costs(costs: Sequence[float]) -> list[float]:
    for cost in costs:
        check_number('costs', cost, '(0, inf)')
    if not len(costs):
        raise ValueError('costs must be positive numbers, but there are none.')
    return [float(cost) for cost in costs]


def check_classes(
    targets_train: np.ndarray,
    targets_test: np.ndarray | None,
    *,
    num_positives: int,
    num_negatives: int | None = None,
) -> None:
    """Refuse classes that cannot be trained or tested."""
    needs = [(targets_train, 'training', PRESENT, num_positives)]
    needs += [(targets_train, 'training', ABSENT, num_negatives or num_positives)]
    if targets_test is not None:
        if targets_test.shape[1] != targets_train.shape[1]:
            raise ValueError(
                f'There are {targets_train.shape[1]} classes for training, but '
                f'{targets_test.shape[1]} for the test.'
            )
        needs += [(targets_test, 'test', PRESENT, 1)]
    for targets, use, value, needed in needs:
        found = (targets == value).sum(0)
        if found.min() < needed:
            kind = 'positives' if value == PRESENT else 'negatives'
            raise ValueError(
                f'Class {found.argmin()} has {found.min()} {kind} for {use}, but needs {needed}. '
                'Take more images, fewer shots, or leave the class out.'
            )
