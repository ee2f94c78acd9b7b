"""What runs have left in their work dirs: logs, numbers of each epoch, advice, results, config."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from os.path import commonpath
from pathlib import Path
from typing import NamedTuple

from mmcoke.files import read_json
from mmcoke.messages import shown

from .results import table_of

STATS = 'cluster_stats.jsonl'
"""In the work dir: a line per epoch and clustering, as JSON."""

ADVICE = 'advice.jsonl'
"""In the work dir: a line for each advice, as JSON."""

REPORT = 'report.html'
"""In the work dir: the page about the run."""


class Result(NamedTuple):
    """A table: names of its columns, its rows, and how the numbers came about."""

    name: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    protocol: str


class Run(NamedTuple):
    """What a page shows of a run.

    Attributes:
        name: what it is called.
        folder: its work dir.
        scalars: curves that it has logged, (step, value), by name.
        stats: lines of ``cluster_stats.jsonl``, in order.
        advice: lines of ``advice.jsonl``, in order.
        results: what was evaluated in the work dir.
        config: text of its config; '' if there is none.
    """

    name: str
    folder: Path
    scalars: Mapping[str, Sequence[tuple[int, float]]]
    stats: Sequence[dict] = ()
    advice: Sequence[dict] = ()
    results: Sequence[Result] = ()
    config: str = ''

    def clusterings(self) -> dict[str, list[dict]]:
        """Lines of the numbers by clustering, by epoch."""
        found = defaultdict(dict)
        for line in self.stats:
            found[line['clustering']][line['epoch']] = line
        return {name: [line for _, line in sorted(lines.items())] for name, lines in found.items()}


def read_runs(folders: Sequence[str | Path]) -> list[Run]:
    """What several runs have left, with names that tell them apart.

    Raises:
        FileNotFoundError: if no run has logged in one of the folders.
    """
    paths = [Path(folder).resolve() for folder in folders]
    names = [shown(path.name) for path in paths]
    if len(set(names)) < len(names):
        shared = commonpath([path.parent for path in paths])
        names = [shown(path.relative_to(shared)) for path in paths]
    return [read_run(*pair) for pair in zip(folders, names, strict=True)]


def read_run(folder: str | Path, name: str) -> Run:
    """What one run has left; see :func:`read_runs`."""
    folder = Path(folder)
    config = config_of(folder)
    stats = list(read_lines(folder / STATS, 'epoch', 'clustering'))
    try:
        scalars = read_scalars(folder)
    except FileNotFoundError:  # a run whose curves go elsewhere, such as to TensorBoard
        if not stats:
            raise
        scalars = {}
    return Run(
        name,
        folder,
        scalars,
        stats,
        list(read_lines(folder / ADVICE)),
        read_results(folder),
        config.read_text(encoding='utf-8', errors='replace') if config else '',
    )


def read_scalars(work_dir: str | Path) -> dict[str, list[tuple[int, float]]]:
    """Curves that the last run in a work dir has logged: (step, value) by name.

    What a resumed run has not repeated is taken from the runs before it.

    Raises:
        FileNotFoundError: if no run has logged there.
    """
    files = sorted(Path(work_dir).glob('*/vis_data/scalars.json'), reverse=True)
    if not files:
        raise FileNotFoundError(
            f'No run has logged scalars in {shown(work_dir)}. Name the work dir of a training, '
            'after its first epoch.'
        )
    curves = defaultdict(dict)
    for path in files:
        first = {name: min(curve) for name, curve in curves.items()}
        for record in read_lines(path, 'step'):
            step = record.pop('step')
            for name, value in record.items():
                if step < first.get(name, float('inf')):
                    curves[name][step] = value
    return {name: sorted(curve.items()) for name, curve in curves.items()}


def read_lines(path: Path, *keys: str) -> Iterator[dict]:
    """The objects in a file of JSON lines that have certain keys; none if it is not there.

    The last line of a run that was killed may be cut off.
    """
    if not path.is_file():
        return
    for line in path.read_text(encoding='utf-8', errors='replace').splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and all(key in record for key in keys):
            yield record


def config_of(folder: str | Path) -> Path | None:
    """The config of the last run in a work dir; None if there is none."""
    dumped = sorted(Path(folder).glob('*/vis_data/config.py'), reverse=True)
    others = sorted(Path(folder).glob('*.py'), key=lambda path: path.stat().st_mtime, reverse=True)
    return next(iter([*dumped, *others]), None)


def read_results(folder: str | Path) -> list[Result]:
    """What ``write_results`` has left in a folder and below it; what is damaged is left out."""
    found = []
    for path in sorted(Path(folder).glob('**/*.json')):
        if not path.with_suffix('.md').is_file():
            continue
        try:
            record = read_json(path, 'protocol', 'rows')
        except ValueError:  # another's, or cut off
            continue
        columns, *rows = table_of(record['rows'])
        name = shown(path.relative_to(folder))
        found.append(Result(name, columns, rows, record['protocol']))
    return found
