"""The result of a benchmark as JSON and as a Markdown table, ready for the model zoo."""

import json
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mmcoke import __version__
from mmcoke.files import plain, sha256_of, write_text
from mmcoke.messages import shown

PACKAGES = ('torch', 'torchvision', 'mmengine', 'mmpretrain', 'numpy', 'scikit-learn')


def write_results(
    folder: str | Path,
    name: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    protocol: str,
    config: str | Path | None = None,
    checkpoint: str | Path | None = None,
) -> Path:
    """Write ``folder/NAME.json`` and ``folder/NAME.md``; what was there is replaced.

    Call it in the main process. A value that is a list or a dict, such as one score per class,
    goes to the JSON only.

    Args:
        folder: made if it is not there.
        name: of the benchmark, such as ``knn``; names the files.
        rows: of the table; columns come in the order in which they turn up first, and what a row
            lacks stays empty. Floats keep all their digits in the JSON, and four in the table.
        protocol: how the numbers came about, in a sentence or two, for the reader of the table.
        config: of the model; its path is recorded as given.
        checkpoint: its file name and the first 8 digits of its SHA-256 are recorded.

    Returns:
        The JSON file.

    Raises:
        ValueError: if there are no rows.
        FileNotFoundError: if the checkpoint is no file.
    """
    if not rows:
        raise ValueError(f'There are no results of {name} to write: rows is empty.')
    record = dict(
        benchmark=name,
        protocol=protocol,
        config=None if config is None else str(config),
        checkpoint=None if checkpoint is None else describe_file(checkpoint),
        date=datetime.now(timezone.utc).date().isoformat(),
        versions=versions(),
        rows=[{key: plain(value) for key, value in row.items()} for row in rows],
    )
    path = Path(folder) / f'{name}.json'
    write_text(path, json.dumps(record, indent=2, allow_nan=False) + '\n')
    write_text(path.with_suffix('.md'), as_markdown(record))
    return path


def describe_file(path: str | Path) -> dict[str, str]:
    """Name and SHA-256 prefix of a file."""
    return dict(name=Path(path).name, sha256=sha256_of(path)[:8])  # as OpenMMLab names weights


def versions() -> dict[str, str]:
    """What the numbers were made with."""
    others = {package: version(package) for package in PACKAGES}
    return dict(mmcoke=__version__, python=platform.python_version()) | others


def as_markdown(record: Mapping[str, Any]) -> str:
    """A record of :func:`write_results` as a heading, a table and where it comes from."""
    columns, *cells = table_of(record['rows'])
    lines = [columns, ['---'] * len(columns), *cells]
    checkpoint = record['checkpoint']
    source = dict(
        Protocol=record['protocol'],
        Config=record['config'] and f'`{shown(record["config"])}`',
        Checkpoint=checkpoint and f'`{shown(checkpoint["name"])}`, SHA-256 {checkpoint["sha256"]}…',
        Date=record['date'],
        Versions=', '.join(f'{name} {number}' for name, number in record['versions'].items()),
    )
    table = '\n'.join(f'| {" | ".join(line)} |' for line in lines)
    notes = '\n'.join(f'- {key}: {value}' for key, value in source.items() if value)
    return f'# {record["benchmark"]}\n\n{table}\n\n{notes}\n'


def table_of(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Names of the columns, then the cells of each row; without what goes to the JSON only."""
    nested = {key for row in rows for key, x in row.items() if isinstance(x, (list, dict))}
    columns = [
        key for key in dict.fromkeys(key for row in rows for key in row) if key not in nested
    ]
    return [columns, *([cell(row.get(key)) for key in columns] for row in rows)]


def cell(value: Any) -> str:
    """A value in a table."""
    if value is None:
        return ''
    # With zeros at the end, which tell 54.00 from a rounded 54; but no bare point.
    text = f'{value:#.4g}'.removesuffix('.') if isinstance(value, float) else str(value)
    return text.replace('|', r'\|').replace('\n', ' ')
