"""Which charts show how runs went: curves over epochs, and sizes of clusters over epochs."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mmcoke.clustering.diagnostics import SIZE_BINS

from .figures import COLOURS, Chart, add_legend, new_figure
from .runs import Run

NOT_SHOWN = ('epoch', 'iter', 'step', 'time', 'data_time', 'memory', 'eta')
"""What a log holds besides curves."""

DASHES = ('-', '--', ':', '-.')

MOST_SIZE_CHARTS = 12

MOST_NAMES = 9
"""In a legend; of more curves of several runs the names of the runs alone."""

Curve = Sequence[tuple[int, float]]


class Kind(NamedTuple):
    """A chart of the numbers of each epoch.

    Attributes:
        title: of the chart.
        keys: of the lines of ``cluster_stats.jsonl``; those behind the first are drawn pale.
        note: what is drawn.
        shared: whether all clusterings of a run have the same number.
    """

    title: str
    keys: Sequence[str]
    note: str = ''
    shared: bool = False


KINDS = (
    Kind('Perplexity', ('evenness',), 'as a share of K; 1: all clusters have the same size'),
    Kind('Changed labels', ('changed',), 'share of the images'),
    Kind('NMI with the epoch before', ('nmi',)),
    Kind('NMI with the classes', ('class_nmi',), 'training never sees these'),
    Kind('Accuracy', ('class_acc',), 'of the best matching of clusters and classes'),
    Kind('Similarity to the own center', ('similarity',), 'mean cosine'),
    Kind('Margin', ('margin',), 'similarity to the own center, less that to the nearest other'),
    Kind('Duals', ('max_dual', 'min_dual'), 'largest; pale: smallest'),
    Kind('Positive duals', ('positive_duals',), 'share of the clusters'),
    Kind('Missing to the lower bound', ('violation', 'violation_bound'), 'pale: at most'),
    Kind('Empty clusters', ('num_empty',)),
    Kind('Rank of the features', ('effective_rank',), shared=True),
    Kind('Spread of the features', ('feature_std',), '0: all the same', shared=True),
)

IN_STATS = {'changed', 'min_size', 'max_size', 'num_small'}
"""Logged curves that the numbers of each epoch have, too."""


def run_charts(runs: Sequence[Run]) -> tuple[list[Chart], list[Chart]]:
    """Charts of the runs beside each other: those that matter most, and all others."""
    scalars = [curves_by_kind(run.scalars) for run in runs]
    loss = curve_chart('loss', 'Loss', [found.get('loss', {}) for found in scalars], runs)
    first = [loss, *(stats_chart(kind, runs) for kind in KINDS)]
    known = {'loss'} | (IN_STATS if all(run.stats for run in runs) else set())
    names = sorted({name for found in scalars for name in found} - known)
    rest = [
        curve_chart(f'log {name}', name, [found.get(name, {}) for found in scalars], runs)
        for name in names
    ]
    return [chart for chart in first if chart], [chart for chart in rest if chart]


# ---- curves


def curves_by_kind(curves: Mapping[str, Curve]) -> dict[str, dict[str, Curve]]:
    """Curves by the last part of their names, then by the parts before: ``coke/20/min_size``.

    Of those without an owner, the framework's, the step is an iteration, else an epoch; where there
    are both, those of epochs are taken. Those of the monitor are left out: its file has them.
    """
    kinds = defaultdict(dict)
    for name, curve in sorted(curves.items()):
        owner, _, kind = name.rpartition('/')
        if kind not in NOT_SHOWN and not name.startswith('clusters/'):
            kinds[kind][owner] = curve
    for owners in kinds.values():
        if len(owners) > 1:
            owners.pop('', None)
    return dict(sorted(kinds.items()))


def stats_chart(kind: Kind, runs: Sequence[Run]) -> Chart | None:
    """A chart of the numbers of each epoch; None if no run has any."""
    found = [run.clusterings() for run in runs]
    if kind.shared:
        found = [dict(zip(['features'], one.values(), strict=False)) for one in found]
    columns = [
        [{name: column(lines, key) for name, lines in one.items()} for one in found]
        for key in kind.keys
    ]
    name = kind.keys[0]
    return curve_chart(name, kind.title, columns[0], runs, note=kind.note, pale=columns[1:])


def column(lines: Sequence[Mapping], key: str) -> Curve:
    """One number over epochs."""
    if key == 'evenness':
        return [(x['epoch'], x['perplexity'] / num_clusters(x)) for x in lines if num_clusters(x)]
    if key == 'violation':  # of methods without a bound it is always 0
        lines = [line for line in lines if line.get('size_bound') != 0]
    return [(x['epoch'], x[key]) for x in lines if x.get(key) is not None]


def num_clusters(line: Mapping) -> int:
    """K of a line of the numbers: as it counts sizes or, in older files, as it is called."""
    if counts := line.get('size_counts'):
        return sum(counts)
    name = line['clustering'].rpartition('/')[2].partition('_')[0]
    return int(name) if name.isdecimal() else 0


def curve_chart(
    name: str,
    title: str,
    curves: Sequence[Mapping[str, Curve]],
    runs: Sequence[Run],
    *,
    note: str = '',
    pale: Sequence[Sequence[Mapping[str, Curve]]] = (),
) -> Chart | None:
    """A chart of one kind; None without curves.

    A run has a colour; of a single run each clustering has one.

    Args:
        name, title, note: see :class:`~mmcoke.reporting.figures.Chart`.
        curves: by clustering, of each run.
        runs: these.
        pale: further ones, drawn pale.
    """
    if not any(curve for owners in curves for curve in owners.values()):
        return None
    figure, axes = new_figure()
    said = []
    for label, colour, dash, (r, owner) in looks(curves, runs):
        curve = curves[r][owner]
        if curve:
            draw(axes, curve, color=colour, linestyle=dash, label=label)
            said.append(f'{runs[r].name} {owner}: {curve[0][1]:.3g} to {curve[-1][1]:.3g}')
        for more in pale:
            if more[r].get(owner):
                draw(axes, more[r][owner], color=colour, linestyle=dash, alpha=0.45)
    if axes.dataLim.height == 0 and axes.dataLim.y0 == 0:
        axes.set_ylim(-0.04, 1)  # all are 0, such as the empty clusters
    axes.set_xlabel('epoch' if any(any(owners) for owners in curves) else 'iteration')
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    add_legend(figure, axes)
    more = f' and {len(said) - 6} more' if len(said) > 6 else ''
    return Chart(name, title, figure, note, f'{title}. {"; ".join(said[:6])}{more}.')


def draw(axes: Axes, curve: Curve, **look) -> None:
    """A curve, or a point where there is but one."""
    axes.plot(*zip(*curve, strict=True), marker='o' if len(curve) == 1 else None, **look)


def looks(curves: Sequence[Mapping], runs: Sequence[Run]) -> Iterator[tuple]:
    """Label, colour, dashes and place (run, owner) of each curve."""
    single, many = len(runs) == 1, sum(map(len, curves)) > MOST_NAMES
    for r, owners in enumerate(curves):
        for number, owner in enumerate(owners):
            place = number if single else r
            words = [owner] if single else [runs[r].name]
            if not single and len(owners) > 1 and not many:
                words.append(owner.rpartition('/')[2])
            if many and not single and number:
                words = ['_']  # which the legend leaves out
            dash = DASHES[number % len(DASHES)]
            dash = DASHES[number // len(COLOURS) % len(DASHES)] if single else dash
            yield ' '.join(words), COLOURS[place % len(COLOURS)], dash, (r, owner)


# ---- sizes


def size_charts(runs: Sequence[Run]) -> list[Chart]:
    """How large the clusters of each clustering were, over epochs."""
    found = []
    for run in runs:
        for name, lines in run.clusterings().items():
            title = name if len(runs) == 1 else f'{run.name} {name}'
            found.append(size_chart(f'sizes {title}'.replace('/', '-'), title, lines))
    return found[:MOST_SIZE_CHARTS]


def size_chart(name: str, title: str, lines: Sequence[Mapping]) -> Chart:
    """Histograms over epochs, with the smallest, median and largest size.

    Args:
        name, title: see :class:`~mmcoke.reporting.figures.Chart`.
        lines: of ``cluster_stats.jsonl``, one per epoch.
    """
    figure, axes = new_figure()
    epochs = [line['epoch'] for line in lines]
    draw_histograms(axes, lines)
    for key, width in (('max_size', 0.8), ('q50_size', 1.8), ('min_size', 0.8)):
        y = bin_of([line[key] for line in lines])
        marker = 'o' if len(lines) == 1 else None
        axes.plot(epochs, y, color=COLOURS[1], linewidth=width, marker=marker)
    bound = lines[-1].get('size_bound')
    if bound:
        axes.axhline(bin_of(bound), color=COLOURS[2], linestyle=':')
    sizes = [line[key] for line in lines for key in ('min_size', 'max_size')] + [bound or np.inf]
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    scale_sizes(axes, min(sizes), max(sizes[:-1]))
    axes.set(xlabel='epoch', ylabel='images in a cluster')
    last = lines[-1]
    alt = (
        f'Sizes of the clusters of {title} over epochs; at the end {last["min_size"]:,.0f} to '
        f'{last["max_size"]:,.0f} images, half of them up to {last["q50_size"]:,.0f}.'
    )
    return Chart(name, title, figure, '', alt)


def bin_of(size: float | Sequence[float]) -> np.ndarray:
    """Where sizes are on the axis of :data:`SIZE_BINS`, whose bins are equally high."""
    return np.interp(size, SIZE_BINS, np.arange(len(SIZE_BINS)))


def draw_histograms(axes: Axes, lines: Sequence[Mapping]) -> None:
    """A column per epoch; the more clusters have a size, the stronger its colour."""
    counted = [line for line in lines if line.get('size_counts')]
    if not counted:
        return
    bins = max(len(line['size_counts']) for line in counted)
    share_BE = np.zeros((bins, len(counted)))
    for number, line in enumerate(counted):
        counts = np.array(line['size_counts'], float)
        share_BE[: len(counts), number] = counts / counts.sum()
    pixels = np.zeros((*share_BE.shape, 4))
    pixels[..., :3] = np.array([int(COLOURS[0][i : i + 2], 16) for i in (1, 3, 5)]) / 255
    pixels[..., 3] = (share_BE / share_BE.max()) ** 0.6
    first, last = counted[0]['epoch'], counted[-1]['epoch']
    extent = (first - 0.5, last + 0.5, 0, bins)
    axes.imshow(pixels, extent=extent, origin='lower', aspect='auto', interpolation='nearest')


def scale_sizes(axes: Axes, smallest: float, largest: float) -> None:
    """Ticks at some of the sizes."""
    bottom, top = max(0, int(bin_of(smallest)) - 1), int(bin_of(largest)) + 1
    ticks = range(bottom, top + 1, max(1, (top - bottom) // 6))
    axes.set_ylim(bottom, top + 0.3)
    axes.set_yticks(ticks, [f'{SIZE_BINS[b]:,}' for b in ticks])


def last_numbers(runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """A table with the last numbers of each clustering: names of columns, and rows."""
    columns = {
        'epoch': ('epoch', '{:.0f}'),
        'perplexity': ('perplexity', '{:.1f}'),
        'empty': ('num_empty', '{:.0f}'),
        'smallest': ('min_size', '{:,.0f}'),
        'median': ('q50_size', '{:,.0f}'),
        'largest': ('max_size', '{:,.0f}'),
        'changed': ('changed', '{:.1%}'),
        'NMI before': ('nmi', '{:.3f}'),
        'similarity': ('similarity', '{:.3f}'),
        'margin': ('margin', '{:.3f}'),
        'missing': ('violation', '{:.2%}'),
        'rank': ('effective_rank', '{:.1f}'),
        'class NMI': ('class_nmi', '{:.3f}'),
        'class ACC': ('class_acc', '{:.3f}'),
    }
    rows = []
    for run in runs:
        for name, lines in run.clusterings().items():
            last = {key: column(lines[-1:], key) for key, _ in columns.values()}
            cells = [
                form.format(last[key][0][1]) if last[key] else '' for key, form in columns.values()
            ]
            rows.append([name if len(runs) == 1 else f'{run.name} · {name}', *cells])
    kept = [0, *(c for c in range(1, len(columns) + 1) if any(row[c] for row in rows))]
    names = ['clustering', *columns]
    return [names[c] for c in kept], [[row[c] for c in kept] for row in rows]
