"""One self-contained HTML page about training runs: how they went, and what their clusters are."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mmengine.config import Config

from .clusters import LookedAt, feature_chart, galleries, neighbours
from .curves import last_numbers, run_charts, size_charts
from .figures import write_figures
from .pages import png_uri, write_page
from .runs import REPORT, Result, Run, read_scalars
from .tiles import Tiles

__all__ = [
    'REPORT',
    'Extras',
    'Picture',
    'Table',
    'cluster_picture',
    'read_scalars',
    'write_report',
]

FIGURES = 'figures'
"""Folder beside a page: its charts as files."""

MOST_SETTINGS = 200
"""Settings in which runs differ that are shown."""


class Table(NamedTuple):
    """A table of a page.

    Attributes:
        title: above it.
        columns: names.
        rows: cells; the first names the row.
        note: below it.
        best: whether the largest number of each column is set in bold.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ''
    best: bool = False

    def is_best(self, row: int, column: int) -> bool:
        """Whether a cell is the largest of its column, in a table that says so."""
        if not self.best or not column:
            return False
        numbers = [float(cells[column]) for cells in self.rows if cells[column]]
        return bool(self.rows[row][column]) and float(self.rows[row][column]) == max(numbers)


class Picture(NamedTuple):
    """A picture that is wide: it keeps its size, and its place scrolls.

    Attributes:
        title: above it.
        uri: data URI.
        width: in CSS pixels.
        alt: what is on it.
        caption: below it.
    """

    title: str
    uri: str
    width: int
    alt: str
    caption: str


class Extras(NamedTuple):
    """What else a page has.

    Attributes:
        title, summary: above all; by default the names of the runs, and their epochs.
        tables: ahead of those of the runs.
        pictures: behind the charts.
        notes: what is missing, a line each.
        command: that makes all of it again.
    """

    title: str = ''
    summary: str = ''
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    notes: Sequence[str] = ()
    command: str = ''


NO_EXTRAS = Extras()


def write_report(
    path: str | Path,
    runs: Sequence[Run],
    *,
    looked_at: Sequence[LookedAt | None] = (),
    extras: Extras = NO_EXTRAS,
    thorough: bool = False,
) -> None:
    """Write the page.

    Args:
        path: the HTML file; written whole or not at all.
        runs: beside each other, of :func:`~mmcoke.reporting.runs.read_runs`.
        looked_at: images of each run; None where there are none to be seen.
        extras: what else is on the page.
        thorough: also t-SNE of the features, and each chart as files in ``figures`` beside it.
    """
    tiles = Tiles()
    seen = seen_images(runs, looked_at, tiles, thorough)
    charts, rest = run_charts(runs)
    sizes = size_charts(runs)
    drawn = [*charts, *sizes, *rest, *(one['chart'] for one in seen if one['chart'])]
    content = extras._asdict() | about(runs)
    content['title'] = extras.title or ' beside '.join(run.name for run in runs)
    content['summary'] = extras.summary or described(runs)
    content['tables'] = [*extras.tables, *numbers_table(runs), *result_tables(runs)]
    content['notes'] = [*extras.notes, *(note for one in seen for note in one['notes'])]
    content['notes'] += tile_notes(tiles)
    content |= dict(charts=charts, sizes=sizes, rest=rest, seen=seen, tiles=tiles.uris)
    content['files'] = write_figures(Path(path).parent / FIGURES, drawn) if thorough else []
    write_page(path, 'report.html', figures=FIGURES, **content)


def about(runs: Sequence[Run]) -> dict:
    """What is said of the runs besides numbers."""
    dashed = len(runs) > 1 and any(len(run.clusterings()) > 1 for run in runs)
    return dict(
        advice=advice_of(runs),
        configs=[run for run in runs if run.config],
        differences=differing_settings(runs),
        runs_dashed=dashed,
    )


def seen_images(
    runs: Sequence[Run], looked_at: Sequence[LookedAt | None], tiles: Tiles, thorough: bool
) -> list[dict]:
    """What the page shows of the images of each run that has some."""
    several = len(runs) > 1
    return [
        run_images(run, looked, tiles, thorough, prefix=run.name if several else '')
        for run, looked in zip(runs, looked_at, strict=False)
        if looked is not None
    ]


def described(runs: Sequence[Run]) -> str:
    """A line about runs: epochs that are done."""
    words = []
    for run in runs:
        epochs = [line['epoch'] for line in run.stats]
        epochs += [step for name, curve in run.scalars.items() if '/' in name for step, _ in curve]
        words.append(f'{max(epochs)} epochs' if epochs else 'no epoch yet')
    if len(runs) == 1:
        return words[0]
    return '; '.join(f'{run.name}: {word}' for run, word in zip(runs, words, strict=True))


def advice_of(runs: Sequence[Run]) -> list[dict]:
    """What was advised, the newest first, with the name of the run where there are several."""
    found = []
    for run in runs:
        for line in reversed(run.advice):
            where = [run.name if len(runs) > 1 else '', str(line.get('clustering') or '')]
            epoch = line.get('epoch')
            where.append('' if epoch is None else f'epoch {epoch}')
            texts = {key: str(line.get(key) or '') for key in ('saw', 'why', 'setting', 'advice')}
            found.append(texts | dict(where=' · '.join(filter(None, where))))
    return found


def numbers_table(runs: Sequence[Run]) -> list[Table]:
    """The last numbers of each clustering, if there are any."""
    columns, rows = last_numbers(runs)
    return [Table('Clusterings at the end', columns, rows)] if rows else []


def result_tables(runs: Sequence[Run]) -> list[Table]:
    """What was evaluated in the work dirs."""
    several = len(runs) > 1
    return [result_table(one, run.name if several else '') for run in runs for one in run.results]


def result_table(result: Result, prefix: str = '') -> Table:
    """A result as a table of the page."""
    title = f'{prefix}: {result.name}' if prefix else result.name
    return Table(title, result.columns, result.rows, result.protocol)


def run_images(
    run: Run,
    looked: LookedAt,
    tiles: Tiles,
    thorough: bool,
    prefix: str,
) -> dict:
    """What the page shows of the images of a run."""
    title = f'{prefix}: t-SNE of the features' if prefix else 't-SNE of the features'
    enough = thorough and len(looked.row_S) > 10
    return dict(
        name=run.name,
        prefix=prefix,
        note=f'{len(looked.row_S):,} images were looked at',
        heads=galleries(looked, tiles),
        neighbours=neighbours(looked, tiles),
        chart=feature_chart(f'features {prefix}'.strip(), title, looked) if enough else None,
        notes=looked.notes,
    )


def tile_notes(tiles: Tiles) -> list[str]:
    """What is said of images without a picture."""
    found = []
    if tiles.failed:
        found.append(f'{tiles.failed:,} images have no picture: they could not be read.')
    if tiles.left_out:
        found.append(f'{tiles.left_out:,} pictures had no room on the page.')
    return found


# ---- settings


def differing_settings(runs: Sequence[Run]) -> Table | None:
    """Settings in which the configs of several runs differ; None if there is nothing to tell."""
    if len([run for run in runs if run.config]) < 2:
        return None
    try:
        settings = [flat_settings(run.config) for run in runs]
    except Exception:  # a config is a program, and its package may not be here
        return None
    keys = dict.fromkeys(key for one in settings for key in one)
    rows = [[key, *(one.get(key, '–') for one in settings)] for key in keys]
    rows = [row for row in rows if len(set(row[1:])) > 1][:MOST_SETTINGS]
    return Table('Settings that differ', ['setting', *(run.name for run in runs)], rows)


def flat_settings(text: str) -> dict[str, str]:
    """Values of a config by dotted key, as text."""
    found: dict[str, str] = {}

    def walk(value: object, key: str) -> None:
        if isinstance(value, Mapping):
            for name, inner in value.items():
                walk(inner, f'{key}.{name}' if key else str(name))
        elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            for number, item in enumerate(value):
                walk(item, f'{key}.{number}')
        elif key != 'work_dir':
            found[key] = str(value)

    walk(Config.fromstring(text, '.py')._cfg_dict.to_dict() if text else {}, '')
    return found


# ---- pictures


def cluster_picture(images: np.ndarray, label: np.ndarray, columns: int = 24) -> tuple[str, int]:
    """PNG, as a data URI, with a row of random members per cluster; and its width in pixels.

    Args:
        images: uint8 (A, H, W) or (A, H, W, 3).
        label: cluster of each image (A,).
        columns: members shown per cluster.
    """
    random = np.random.default_rng(0)
    clusters = np.unique(label)
    height, width = images.shape[1:3]
    gap = 1
    shape = (len(clusters) * (height + gap) - gap, columns * (width + gap) - gap, *images.shape[3:])
    canvas = np.full(shape, 255, np.uint8)
    for row, cluster in enumerate(clusters):
        members = random.permutation(np.flatnonzero(label == cluster))[:columns]
        for column, member in enumerate(members):
            top, left = row * (height + gap), column * (width + gap)
            canvas[top : top + height, left : left + width] = images[member]
    return png_uri(canvas), shape[1]
