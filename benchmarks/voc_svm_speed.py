"""Compare the time of the VOC07 SVM protocol here and in the scheme of the published tools.

Both get the same synthetic features and targets, in turns, on the same cores. The published scheme
is a pool of processes with one task per class and cost: one `LinearSVC` on all images, and three
more by `cross_val_score`. Ours shares one matrix of inner products. Prints medians of several
rounds at growing numbers of images, and how time grows with that number; --full adds one run of
ours at the size of VOC07 (5,011 images, 8,192 features, 20 classes, 19 costs):

    python benchmarks/voc_svm_speed.py --full

The published scheme is too slow at full size: see --num-images for what is measured.
"""

import argparse
import math
import multiprocessing
import resource
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from itertools import product

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import cross_val_score
from sklearn.svm import LinearSVC

from mmcoke.evaluation import voc_svm
from mmcoke.evaluation.svm import COSTS, envelope_ap

NUM_IMAGES, DIM, NUM_CLASSES = 5011, 8192, 20
SHARE_OF_POSITIVES = 0.08
"""Of an image's 20 classes, 1.5 are present on average in VOC07."""


def make_set(random: np.random.Generator, num_images: int, num_classes: int) -> tuple:
    """Features like those behind a ReLU, and classes that can nearly be told apart by them."""
    concept = random.normal(size=(num_images, 64)) * np.arange(1, 65) ** -0.5
    mixing = np.random.default_rng(0).normal(size=(64, DIM))
    features = np.maximum(concept @ mixing + random.normal(0.3, 1, (num_images, DIM)), 0)
    score = concept[:, :num_classes] + 0.1 * random.normal(size=(num_images, num_classes))
    targets = score > np.quantile(score, 1 - SHARE_OF_POSITIVES, axis=0)
    return features.astype(np.float32), targets.astype(int)


SETS = []
"""Of the published scheme: training features, their labels, test features."""


def published_task(task: tuple[int, float]) -> tuple[float, np.ndarray]:
    """Cross-validated average precision of a class and cost, and scores of the test images."""
    x, label_AK, x_test = SETS
    k, cost = task
    label = label_AK[:, k]
    svm = LinearSVC(
        C=cost, class_weight={1: 2, -1: 1}, dual=True, tol=1e-4, max_iter=2000, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', ConvergenceWarning)
        scores = cross_val_score(svm, x, label, cv=3, scoring='average_precision')
        return scores.mean(), svm.fit(x, label).decision_function(x_test)


def published(sets: tuple, num_processes: int) -> float:
    """Mean average precision by the published scheme.

    The processes inherit the features; the published tools copy them for each task.
    """
    x, targets, x_test, targets_test = sets
    x, x_test = (x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-5) for x in (x, x_test))
    label = np.where(targets == 1, 1, -1)
    tasks = product(range(label.shape[1]), COSTS)
    SETS[:] = x, label, x_test
    with multiprocessing.get_context('fork').Pool(num_processes) as pool:
        results = list(pool.imap(published_task, tasks))
    aps = []
    for k in range(targets.shape[1]):
        _, score = max(results[k * len(COSTS) : (k + 1) * len(COSTS)], key=lambda result: result[0])
        aps.append(envelope_ap(targets_test[:, k] == 1, score[:, None])[0])
    return float(np.mean(aps))


def ours(sets: tuple) -> float:
    """Mean average precision by ``voc_svm``."""
    return voc_svm(*sets, parity=True)['mean_ap']


def seconds(run: Callable[[], float]) -> tuple[float, float]:
    """What it returned, and how long it took."""
    start = time.perf_counter()
    return run(), time.perf_counter() - start


def compare(num_images: int, args: argparse.Namespace) -> tuple[float, float, float]:
    """Median seconds of both, and the largest difference of their mean AP, in percent."""
    times, difference = ([], []), 0.0
    for number in track(range(args.rounds), f'{num_images} images', transient=True):
        random = np.random.default_rng(number)
        sets = tuple(x for _ in range(2) for x in make_set(random, num_images, args.num_classes))
        methods = [partial(published, sets, args.num_processes), partial(ours, sets)]
        aps = [0.0, 0.0]
        for i in (0, 1) if number % 2 else (1, 0):  # each goes first as often
            aps[i], taken = seconds(methods[i])
            times[i].append(taken)
        difference = max(difference, 100 * abs(aps[0] - aps[1]))
    return *map(statistics.median, times), difference


def growth(num_images: list[int], times: list[float]) -> float:
    """The power of the number of images with which time grows between the two largest sizes."""
    (a, b), (s, t) = num_images[-2:], times[-2:]
    return math.log(t / s) / math.log(b / a)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--num-images', type=int, nargs='+', default=[400, 800, 1600])
    parser.add_argument('--num-classes', type=int, default=4, help='(%(default)s)')
    parser.add_argument('--rounds', type=int, default=3, help='per size (%(default)s)')
    parser.add_argument('--num-processes', type=int, default=torch.get_num_threads())
    parser.add_argument('--full', action='store_true', help='one run of ours at full size, too')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.num_processes)
    table = Table(
        'images', 'published scheme, s', 'ours, s', 'ratio', 'largest difference of mean AP, %'
    )
    slow, fast = [], []
    for num_images in args.num_images:
        a, b, difference = compare(num_images, args)
        slow.append(a)
        fast.append(b)
        table.add_row(
            f'{num_images:,}', f'{a:.1f}', f'{b:.1f}', f'{a / b:.1f}', f'{difference:.4f}'
        )
    console = Console()
    console.print(table)
    if len(args.num_images) > 1:
        powers = [growth(args.num_images, times) for times in (slow, fast)]
        rest = NUM_IMAGES / args.num_images[-1], NUM_CLASSES / args.num_classes
        guess = [t[-1] * rest[0] ** p * rest[1] for t, p in zip((slow, fast), powers, strict=True)]
        console.print(
            f'Time grows with the number of images to the power {powers[0]:.2f} (published) and '
            f'{powers[1]:.2f} (ours): {guess[0]:,.0f} s and {guess[1]:,.0f} s at full size.'
        )
    if args.full:
        random = np.random.default_rng(0)
        sets = tuple(x for _ in range(2) for x in make_set(random, NUM_IMAGES, NUM_CLASSES))
        _, taken = seconds(partial(ours, sets))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        console.print(f'Ours at full size: {taken:,.0f} s, at most {peak:.1f} GB of memory.')


if __name__ == '__main__':
    main()
