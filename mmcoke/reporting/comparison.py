"""A comparison of methods: the table, and kNN over minutes and epochs."""

import statistics
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmcoke.files import write_whole

COLUMNS = {
    'head ACC': ('head', 'acc'),
    'head NMI': ('head', 'nmi'),
    'head ARI': ('head', 'ari'),
    'k-means ACC': ('kmeans', 'acc'),
    'k-means NMI': ('kmeans', 'nmi'),
    'k-means ARI': ('kmeans', 'ari'),
}
NONE = '–'


def comparison_table(runs: Sequence[Mapping]) -> str:
    """Markdown, a row per method: mean over the seeds, and their standard deviation.

    Args:
        runs: each with ``method``, ``seed``, ``epochs``, ``seconds`` of training, ``split`` (that
            clusters are scored on: ``test`` or ``train_and_test``) and ``scores``, see
            :func:`~mmcoke.evaluation.protocol.protocol_scores`. Rows come in their order.
    """
    names = ['method', 'seeds', 'epochs', 'minutes', 'kNN 20', 'kNN 200', 'linear', *COLUMNS]
    lines = [names, ['---'] * len(names), *(row_of(group) for group in by_method(runs))]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines) + '\n'


def by_method(runs: Sequence[Mapping]) -> list[list[Mapping]]:
    """The runs of each method, in the order in which the methods turn up first."""
    order = list(dict.fromkeys(run['method'] for run in runs))
    runs = sorted(runs, key=lambda run: order.index(run['method']))
    return [list(group) for _, group in groupby(runs, key=lambda run: run['method'])]


def row_of(runs: Sequence[Mapping]) -> list[str]:
    """Cells of the runs of one method."""
    scores = [run['scores'] for run in runs]
    values = [[s['knn'].get(k) for s in scores] for k in ('20', '200')]
    values.append([s['linear'] for s in scores])
    values += [[cluster_score(run, *where) for run in runs] for where in COLUMNS.values()]
    epochs = sorted({run['epochs'] for run in runs})
    return [
        runs[0]['method'],
        str(len(runs)),
        ', '.join(map(str, epochs)),
        spread([run['seconds'] / 60 for run in runs]),
        *(spread(column, 100) for column in values),
    ]


def cluster_score(run: Mapping, kind: str, name: str) -> float | None:
    """A score of the clusters on the split that counts; None where there are none."""
    scores = run['scores'][kind]
    return scores and scores[run['split']][name]


def spread(values: Sequence[float | None], factor: float = 1) -> str:
    """Mean and, of several, standard deviation (n - 1); a dash if one is missing."""
    if None in values:
        return NONE
    values = [factor * value for value in values]
    mean = f'{statistics.mean(values):.1f}'
    return f'{mean} ± {statistics.stdev(values):.1f}' if len(values) > 1 else mean


def write_curves(runs: Sequence[Mapping], path: Path) -> None:
    """Draw kNN accuracy over minutes of training and over epochs, as ``.svg`` and ``.png``.

    Args:
        runs: as for :func:`comparison_table`, with ``curve``: lists of epoch, seconds, accuracy.
        path: without a suffix.
    """
    figure = Figure(figsize=(9, 3.6))
    figure.subplots_adjust(0.08, 0.15, 0.98, 0.97, wspace=0.08)
    over_minutes, over_epochs = figure.subplots(1, 2, sharey=True)
    for number, group in enumerate(by_method([run for run in runs if run['curve']])):
        for axes, column, unit in ((over_minutes, 1, 60), (over_epochs, 0, 1)):
            draw(axes, group, column, unit, f'C{number}')
    for run in runs:
        if not run['curve']:  # a network without training
            for axes in (over_minutes, over_epochs):
                axes.axhline(100 * run['scores']['knn']['20'], color='grey', lw=0.8, ls=':')
    over_minutes.set(xlabel='minutes of training', ylabel='kNN accuracy, k = 20 (%)')
    over_epochs.set(xlabel='epochs; dotted: without training')
    for axes in (over_minutes, over_epochs):
        axes.set_xlim(left=0)
    if over_epochs.lines:
        over_epochs.legend(frameon=False, fontsize='small')
    for suffix in ('.svg', '.png'):
        options = dict(format=suffix[1:], dpi=120)
        write_whole(path.with_suffix(suffix), lambda part, o=options: figure.savefig(part, **o))


def draw(axes: Axes, runs: Sequence[Mapping], column: int, unit: float, colour: str) -> None:
    """A line per seed, all of one colour; the first one names the method."""
    for number, run in enumerate(runs):
        x = [point[column] / unit for point in run['curve']]
        y = [100 * point[2] for point in run['curve']]
        label = run['method'] if number == 0 else None
        look = dict(linewidth=1.2, marker='o', markersize=3, alpha=1 if number == 0 else 0.5)
        axes.plot(x, y, color=colour, label=label, **look)
