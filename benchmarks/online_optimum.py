"""How near CoKe's online assignment comes to the best assignment there is, on fixed features.

    python benchmarks/online_optimum.py --svg docs/images/online_optimum.svg --json FILE
    python benchmarks/online_optimum.py --cifar10 cifar10_train.npz   # x, uint8 (50000, 32, 32, 3)

With fixed centers the best assignment with at least gamma A / K of A samples in each of K clusters
is a linear program (a transport problem, whose solutions are whole), solved by HiGHS; for all of
CIFAR-10 its dual bound is taken instead, which is above the best. `OnlineConstrainedKMeans` passes
over the samples, with a constant step of the duals and with one that falls as 1 / sqrt(t), for
random orders, one order again and again, and samples sorted by cluster. docs/theory.md says what is
compared, and why.

With centers that learn, `CoKeLabeler` is compared with Lloyd's algorithm with exact assignment from
the same first centers.
"""

import argparse
import json
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.optimize import linprog
from scipy.sparse import coo_array
from torch import Tensor
from torch.nn.functional import normalize

from mmcoke.clustering import CoKeLabeler, OnlineConstrainedKMeans, kmeans
from mmcoke.clustering.min_size import Repair
from mmcoke.datasets.in_memory import load_digits_arrays
from mmcoke.files import write_text, write_whole

REACH = 0.3
"""g of docs/methods/coke.md, "How to choose eta"."""

STEPS = ('rule', 'rule x 4', 'rule / 4', '1/sqrt(t)')
ORDERS = ('random', 'same', 'sorted')


class Problem(NamedTuple):
    """Samples (A, D), centers (K, D), gamma; the best mean similarity with bounds, and without."""

    x_AD: Tensor
    centers_KD: Tensor
    min_ratio: float
    best: float
    nearest: float

    @property
    def bound(self) -> float:
        """Of the share of a cluster."""
        return self.min_ratio / len(self.centers_KD)


class Curve(NamedTuple):
    """What each pass has, and all passes up to it.

    Attributes:
        objective: mean similarity of the labels of the pass.
        missing: share of samples missing to the bounds, of the labels of the pass.
        feasible: mean similarity of the labels of the pass, once moved to hold the bounds.
        regret, regret_bound: best minus the mean objective up to here; what it is at most, if
            samples come at random.
        violation, violation_bound: share of samples missing to the bounds, of all labels up to
            here; what it is at most, whatever comes.
        largest_dual: at the end of the pass.
    """

    objective: float
    missing: float
    feasible: float
    regret: float
    regret_bound: float
    violation: float
    violation_bound: float
    largest_dual: float


# ---- data


def mixture(seed: int, number: int = 5000, num_components: int = 25, dim: int = 32) -> Tensor:
    """Of components, the most frequent 20 times as frequent as the rarest."""
    generator = torch.Generator().manual_seed(seed)
    means = 1.5 * normalize(torch.randn(num_components, dim, generator=generator), dim=1)
    weight = torch.logspace(0, np.log10(20), num_components)
    component = torch.multinomial(weight, number, True, generator=generator)
    return normalize(
        means[component] + torch.randn(number, dim, generator=generator) / dim**0.5, dim=1
    )


def digits() -> Tensor:
    """1,750 of scikit-learn's digits: centred pixels, unit length."""
    x_AD = torch.from_numpy(load_digits_arrays()[0][:1750]).flatten(1).float()
    return normalize(x_AD - x_AD.mean(0), dim=1)


def cifar10(path: Path) -> Tensor:
    """50,000 images: 64 principal components of the pixels, unit length."""
    x_AD = torch.from_numpy(np.load(path)['x']).flatten(1).float()
    x_AD -= x_AD.mean(0)
    _, vectors = torch.linalg.eigh(x_AD.T @ x_AD)
    return normalize(x_AD @ vectors[:, -64:], dim=1)


# ---- the best


def exact(similarity_AK: np.ndarray, bound: float) -> tuple[np.ndarray, float, np.ndarray]:
    """Labels, mean similarity and duals of the best assignment within the bounds."""
    number, num_clusters = similarity_AK.shape
    rows = np.repeat(np.arange(number), num_clusters)
    columns = np.tile(np.arange(num_clusters), number)
    places = np.arange(number * num_clusters)
    ones = np.ones(number * num_clusters)
    found = linprog(
        -similarity_AK.ravel(),
        A_eq=coo_array((ones, (rows, places))).tocsr(),
        b_eq=np.ones(number),
        A_ub=coo_array((-ones, (columns, places))).tocsr(),
        b_ub=np.full(num_clusters, -bound * number),
        method='highs-ipm',
    )
    assert found.status == 0, found.message
    dual_K = -found.ineqlin.marginals
    best = -found.fun / number
    assert abs(dual_value(similarity_AK, dual_K, bound) - best) < 1e-6  # strong duality
    return found.x.reshape(similarity_AK.shape).argmax(1), best, dual_K


def dual_value(similarity_AK: np.ndarray, dual_K: np.ndarray, bound: float) -> float:
    """What no assignment with the bounds can exceed, for any duals of 0 or more."""
    return float((similarity_AK + dual_K).max(1).mean() - bound * dual_K.sum())


def first_centers(kind: str, x_AD: Tensor, num_clusters: int, seed: int) -> Tensor:
    """Random directions, as CoKe begins with, to most of which few samples are nearest; or random
    samples."""
    if kind == 'directions':
        # Another seed than the data's: else these would be the means of the mixture.
        return OnlineConstrainedKMeans(num_clusters, x_AD.shape[1], seed=seed + 1000).centers
    generator = torch.Generator().manual_seed(seed)
    return x_AD[torch.randperm(len(x_AD), generator=generator)[:num_clusters]]


def problem(x_AD: Tensor, centers_KD: Tensor, min_ratio: float) -> Problem:
    """With its best assignment."""
    similarity_AK = (x_AD @ centers_KD.T).double().numpy()
    _, best, _ = exact(similarity_AK, min_ratio / len(centers_KD))
    return Problem(x_AD, centers_KD, min_ratio, best, float(similarity_AK.max(1).mean()))


# ---- online


def step_sizes(kind: str, task: Problem, batch: int) -> Iterator[float]:
    """eta of each step: by the rule of the docs, several times it, or falling from 4 times it."""
    rule = REACH * batch / (task.bound * len(task.x_AD))
    factor = {'rule': 1, 'rule x 4': 4, 'rule / 4': 0.25, '1/sqrt(t)': 4}[kind]
    t = 0
    while True:
        t += 1
        yield rule * factor * (t**-0.5 if kind == '1/sqrt(t)' else 1)


def ordered(kind: str, task: Problem, seed: int) -> Iterator[Tensor]:
    """The order of each pass."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(task.x_AD), generator=generator)
    if kind == 'sorted':
        order = (task.x_AD @ task.centers_KD.T).argmax(1).argsort(stable=True)
    while True:
        yield order
        if kind == 'random':
            order = torch.randperm(len(task.x_AD), generator=generator)


def online(
    task: Problem,
    batch: int,
    step: str,
    order: str,
    num_passes: int,
    seed: int,
    duals: list[Tensor] | None = None,
) -> list[Curve]:
    """Passes of CoKe's assignment with fixed centers; ``duals`` gets those of each pass."""
    number, num_clusters = len(task.x_AD), len(task.centers_KD)
    # In stage 2 centers stay as they are until an epoch is ended, which nobody does here.
    one = OnlineConstrainedKMeans(
        num_clusters, task.x_AD.shape[1], min_ratio=task.min_ratio, average_from_epoch=0
    )
    one.centers.copy_(task.centers_KD)
    one.set_epoch(0)
    sizes, orders, curves = step_sizes(step, task, batch), ordered(order, task, seed), []
    total, num_steps, regret_bound = 0.0, 0, 0.0
    counts_K, growth_K = torch.zeros(2, num_clusters, dtype=torch.float64)
    label_A = torch.zeros(number, dtype=torch.int64)
    for _ in range(num_passes):
        for rows in next(orders).split(batch):
            one.dual_lr, before_K = next(sizes), one.dual.double().clone()
            label_A[rows] = label = one.assign(task.x_AD[rows])
            one.update(task.x_AD[rows], label)
            size_K = torch.bincount(label, minlength=num_clusters).double()
            slack_K = size_K / len(rows) - task.bound
            change = before_K.square().sum() - one.dual.double().square().sum()
            regret_bound += change.item() / (2 * one.dual_lr)
            regret_bound += one.dual_lr * slack_K.square().sum().item() / 2
            growth_K += (one.dual.double() - before_K) / one.dual_lr
            counts_K += size_K
            num_steps += 1
        objective = similarity_of(task, label_A).mean().item()
        total += objective
        share_K = torch.bincount(label_A, minlength=num_clusters).double() / number
        passes = len(curves) + 1
        violation = missing(counts_K / counts_K.sum(), task.bound)
        curves.append(
            Curve(
                objective,
                missing(share_K, task.bound),
                repaired(task, label_A) if passes in CHECKED else math.nan,
                task.best - total / passes,
                regret_bound / num_steps,
                violation,
                growth_K.clamp(min=0).sum().item() / num_steps,
                one.dual.max().item(),
            )
        )
        if duals is not None:
            duals.append(one.dual.clone())
        assert violation <= curves[-1].violation_bound + 1e-5  # float32 duals
    return curves


def missing(share_K: Tensor, bound: float) -> float:
    return (bound - share_K).clamp(min=0).sum().item()


def similarity_of(task: Problem, label_A: Tensor) -> Tensor:
    return (task.x_AD * task.centers_KD[label_A]).sum(1)


def repaired(task: Problem, label_A: Tensor) -> float:
    """Mean similarity of labels, once as few as need be are moved to hold the bounds."""
    similarity_AK = task.x_AD @ task.centers_KD.T
    label_A, own_A = label_A.clone(), similarity_of(task, label_A)
    others_AK = similarity_AK.scatter(1, label_A[:, None], -torch.inf)
    Repair(
        lambda rows: task.x_AD[rows],
        task.centers_KD,
        label_A,
        own_A,
        own_A - others_AK.amax(1),
        min_size=int(task.bound * len(task.x_AD) + 1e-6),
        rows_per_chunk=1024,
    ).run()
    return similarity_of(task, label_A).mean().item()


# ---- with centers that learn


def learned(name: str, x_AD: Tensor, num_clusters: int, min_ratio: float, seed: int) -> dict:
    """CoKe's labels and centers after passes, beside Lloyd's with exact assignment."""
    number, batch = len(x_AD), 50
    rate = REACH * num_clusters * batch / (min_ratio * number)
    labeler = CoKeLabeler(
        number, num_clusters, x_AD.shape[1], min_ratio=min_ratio, dual_lr=rate, seed=seed
    )
    first_KD = labeler.kmeans.centers.clone()
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(20):
        labeler.set_epoch(epoch)
        for rows in torch.randperm(number, generator=generator).split(batch):
            labeler.step(x_AD[rows], rows)
        labeler.end_epoch()
    centers_KD, label_A = labeler.kmeans.centers, labeler.labels.label.long()
    task = Problem(x_AD, centers_KD, min_ratio, 0, 0)
    _, best, _ = exact((x_AD @ centers_KD.T).double().numpy(), task.bound)
    share_K = torch.bincount(label_A, minlength=num_clusters).double() / number
    return dict(
        data=name,
        K=num_clusters,
        gamma=min_ratio,
        seed=seed,
        coke=similarity_of(task, label_A).mean().item(),
        coke_missing=missing(share_K, task.bound),
        coke_feasible=repaired(task, label_A),
        best_for_its_centers=best,
        lloyd=exact_lloyd(x_AD, first_KD, task.bound),
        unbounded=unbounded(x_AD, num_clusters, seed),
    )


def exact_lloyd(x_AD: Tensor, centers_KD: Tensor, bound: float, num_iters: int = 8) -> float:
    """Mean similarity after exact assignments and means in turns."""
    for _ in range(num_iters):
        label_A, best, _ = exact((x_AD @ centers_KD.T).double().numpy(), bound)
        sum_KD = torch.zeros_like(centers_KD).index_add_(0, torch.from_numpy(label_A), x_AD)
        centers_KD = normalize(sum_KD, dim=1)
    return best


def unbounded(x_AD: Tensor, num_clusters: int, seed: int) -> float:
    """Mean similarity of k-means without bounds."""
    label_A, centers_KD = kmeans(x_AD, num_clusters, spherical=True, seed=seed)[:2]
    return (x_AD * centers_KD[label_A]).sum(1).mean().item()


# ---- all of CIFAR-10


def by_dual_bound(x_AD: Tensor, num_clusters: int, min_ratio: float, seed: int) -> list[dict]:
    """Passes over many samples, with the least dual value of those seen in place of the best."""
    centers_KD = first_centers('directions', x_AD, num_clusters, seed)
    similarity_AK = (x_AD @ centers_KD.T).numpy()
    task = Problem(x_AD, centers_KD, min_ratio, 0, float(similarity_AK.max(1).mean()))
    duals: list[Tensor] = []
    curves = online(task, 128, '1/sqrt(t)', 'random', 10, seed, duals)
    above = min(dual_value(similarity_AK, dual.numpy(), task.bound) for dual in duals)
    return [
        dict(
            passes=i + 1,
            best_at_most=above,
            nearest=task.nearest,
            feasible=curves[i].feasible,
            gap=above - curves[i].feasible,
            missing=curves[i].missing,
        )
        for i in (0, 2, 9)
    ]


# ---- tables and plot

HARD = dict(
    data='mixture', centers='directions', K=20, gamma=0.4, batch=50, step='rule', order='random'
)
SETTINGS = [HARD | dict(data=data, step=step) for data in ('mixture', 'digits') for step in STEPS]
SETTINGS += [
    HARD | other
    for other in (
        dict(centers='samples'),
        dict(K=50),
        dict(gamma=0.9),
        dict(batch=500),
        dict(order='same'),
        dict(order='sorted'),
        dict(order='sorted', step='1/sqrt(t)'),
    )
]
CHECKED = (1, 2, 3, 5, 10, 20)
"""Passes after which labels are moved to hold the bounds, and which the plot shows."""

PASSES = CHECKED[-1]


def runs(seeds: list[int]) -> Iterator[dict]:
    """The curves of all settings and seeds; problems are solved once."""
    known: dict[tuple, Problem] = {}
    for setting in track(SETTINGS, description='Settings'):
        curves = []
        for seed in seeds:
            key = (*(setting[name] for name in ('data', 'centers', 'K', 'gamma')), seed)
            if key not in known:
                x_AD = mixture(seed) if setting['data'] == 'mixture' else digits()
                centers_KD = first_centers(setting['centers'], x_AD, setting['K'], seed)
                known[key] = problem(x_AD, centers_KD, setting['gamma'])
            found = online(
                known[key], setting['batch'], setting['step'], setting['order'], PASSES, seed
            )
            curves.append([one._asdict() | gap_of(one, known[key]) for one in found])
        costs = [known[(*key[:-1], seed)] for seed in seeds]
        cost = statistics.median(task.nearest - task.best for task in costs)
        middle = [
            {name: statistics.median(c[i][name] for c in curves) for name in curves[0][0]}
            for i in (number - 1 for number in CHECKED)
        ]
        yield dict(setting, cost=cost, curve=middle)


def gap_of(one: Curve, task: Problem) -> dict:
    """How far feasible labels are below the best."""
    return dict(gap=task.best - one.feasible)


def table_of(found: list[dict]) -> Table:
    """What is where after one pass, and after all."""
    names = ('data', 'centers', 'K', 'gamma', 'batch', 'step', 'order')
    table = Table(*names, 'cost', *(f'{n} {p}' for p in (1, PASSES) for n in ('gap', 'missing')))
    for name in ('regret', 'its bound', 'violation', 'its bound', 'dual'):
        table.add_column(name)
    for one in found:
        first, last = one['curve'][0], one['curve'][-1]
        numbers = [one['cost'], first['gap'], first['missing'], last['gap'], last['missing']]
        kept = ('regret', 'regret_bound', 'violation', 'violation_bound', 'largest_dual')
        numbers += [last[name] for name in kept]
        table.add_row(*(str(one[name]) for name in names), *(f'{x:.5f}' for x in numbers))
    return table


def draw(found: list[dict], path: Path) -> None:
    """Gap, and violation with its bound, over passes, of the hard mixture."""
    figure = Figure(figsize=(9, 3.4), layout='constrained')
    left, middle, right = figure.subplots(1, 3)
    hard = [one for one in found if {**one, **HARD, 'step': one['step']} == one]
    for one, colour in zip(hard, ('#3b6fb6', '#c8553d', '#4f8a5b', '#8b6bb1'), strict=True):
        style = dict(color=colour, label=one['step'])
        left.plot(CHECKED, [max(c['gap'], 1e-6) for c in one['curve']], **style)
        middle.plot(CHECKED, [max(c['violation'], 1e-6) for c in one['curve']], **style)
        middle.plot(CHECKED, [c['violation_bound'] for c in one['curve']], ':', color=colour)
        right.plot(CHECKED, [c['regret'] for c in one['curve']], **style)
        right.plot(CHECKED, [c['regret_bound'] for c in one['curve']], ':', color=colour)
    left.axhline(hard[0]['cost'], color='#888', linewidth=1, linestyle='--')
    left.set(title='below the best, labels of a pass', yscale='log')
    middle.set(title='missing to the bounds, all passes', yscale='log')
    right.set(title='regret, all passes')
    right.set_yscale('symlog', linthresh=1e-3)
    for axes in (left, middle, right):
        axes.set_xscale('log')
        axes.set_xticks([1, 2, 5, 10, 20], ['1', '2', '5', '10', '20'])
        axes.set_xticks([], minor=True)
        axes.set_xlabel('passes')
        axes.title.set_fontsize(9)
        axes.spines[['top', 'right']].set_visible(False)
        axes.grid(alpha=0.25)
    lines, labels = left.get_legend_handles_labels()
    figure.legend(lines, labels, loc='outside lower center', ncols=4, frameon=False, fontsize=8)
    write_whole(path, lambda part: figure.savefig(part, format='svg', metadata={'Date': None}))


def plain_table(rows: list[dict]) -> Table:
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(f'{x:.5f}' if isinstance(x, float) else str(x) for x in row.values()))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--cifar10', type=Path, metavar='NPZ', help='only this, by the dual bound')
    parser.add_argument('--svg', type=Path, metavar='FILE', help='draw the plot')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the figures here, too')
    args = parser.parse_args()
    torch.set_num_threads(1)
    console, record = Console(width=200), {}
    if args.cifar10:
        record['cifar10'] = by_dual_bound(cifar10(args.cifar10), 100, 0.9, args.seeds[0])
        console.print(plain_table(record['cifar10']))
    else:
        record['fixed'] = list(runs(args.seeds))
        console.print(table_of(record['fixed']))
        record['learned'] = [
            learned(name, x_AD, num_clusters, 0.4, seed)
            for seed in track(args.seeds, description='Centers that learn')
            for name, x_AD, num_clusters in (
                ('mixture', mixture(seed), 10),
                ('digits', digits(), 20),
            )
        ]
        console.print(plain_table(record['learned']))
        if args.svg:
            draw(record['fixed'], args.svg)
    if args.json:
        write_text(args.json, json.dumps(record, indent=1) + '\n')


if __name__ == '__main__':
    main()
