"""One page with the curves and the results of any run."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmcoke.files import read_json
from mmcoke.messages import shown

from .report import COLOURS, as_svg, new_figure, read_scalars, write_page
from .results import table_of

NOT_SHOWN = ('epoch', 'iter', 'step', 'time', 'data_time', 'memory', 'eta')
"""What a log holds besides curves."""


def write_curves_page(path: str | Path, work_dir: str | Path) -> list[str]:
    """Write a page with a chart per kind of curve that a run has logged, and a table per result.

    Results are those of ``mmcoke evaluate`` below the work dir.

    Args:
        path: the HTML file; written whole or not at all.
        work_dir: of a run, finished or not.

    Returns:
        Kinds of the curves, such as ``loss`` and ``min_size``.

    Raises:
        FileNotFoundError: if no run has logged there.
    """
    kinds = curves_by_kind(read_scalars(work_dir))
    results = [
        dict(name=shown(found.relative_to(work_dir)), **result_of(found))
        for found in sorted(Path(work_dir).glob('**/*.json'))
        if found.with_suffix('.md').is_file()  # as write_results leaves them
    ]
    charts = [dict(name=kind, svg=chart(curves)) for kind, curves in kinds.items()]
    title = shown(Path(work_dir).resolve().name)
    write_page(path, 'curves.html', title=title, charts=charts, results=results)
    return list(kinds)


def curves_by_kind(
    curves: Mapping[str, Sequence[tuple[int, float]]],
) -> dict[str, dict[str, Sequence[tuple[int, float]]]]:
    """Curves by the last part of their names, then by the parts before: ``coke/20/min_size``.

    Of those without an owner, the framework's, the step is an iteration, else an epoch; where there
    are both, those of epochs are taken.
    """
    kinds = defaultdict(dict)
    for name, curve in sorted(curves.items()):
        owner, _, kind = name.rpartition('/')
        if kind not in NOT_SHOWN:
            kinds[kind][owner] = curve
    for owners in kinds.values():
        if len(owners) > 1:
            owners.pop('', None)
    return dict(sorted(kinds.items()))


def chart(curves: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    """SVG of the curves of one kind."""
    figure, axes = new_figure()
    for number, (owner, curve) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        marker = 'o' if len(curve) == 1 else None
        axes.plot(*zip(*curve, strict=True), color=colour, marker=marker, label=owner)
    axes.set(xlabel='epoch' if any(curves) else 'iteration')
    if len(curves) > 1:
        axes.legend(frameon=False)
    return as_svg(figure)


def result_of(path: Path) -> dict:
    """What the page shows of a result."""
    record = read_json(path, 'protocol', 'rows')
    columns, *rows = table_of(record['rows'])
    return dict(columns=columns, rows=rows, protocol=record['protocol'])
