"""New images in an existing result: assigned to its centers, while old rows keep their labels."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmcoke.files import read_json, write_rows, write_text

from .hierarchy import Level
from .names import Names, write_names
from .out_folder import OutFolder, remove
from .result import Sorted
from .vectors import KEPT, LISTED, VECTORS, open_vectors, parts_of

REMOVED, ROWS, SETTINGS, FOUND = 'removed', 'rows.npy', 'settings.json', 'found.pth'


class Changes(NamedTuple):
    """What is in a folder now, against a result.

    Attributes:
        new: names that the result does not have, in order.
        rows: of the new ones, in the list that they are from.
        removed: names of the result that are gone.
    """

    new: list[str]
    rows: list[int]
    removed: list[str]


def changes(names: Sequence[str], old: Names, *, complete: bool) -> Changes:
    """Compare names with those of a result.

    Args:
        names: that there are now.
        old: of the result.
        complete: whether old names that are not among them are gone.
    """
    known, there = set(old), set(names)
    rows = [row for row, name in enumerate(names) if name not in known]
    removed = [name for name in old if name not in there] if complete else []
    return Changes([names[row] for row in rows], rows, removed)


def write_changes(place: OutFolder, found: Changes, settings: dict) -> None:
    """Begin to add: what is to be done is there as a whole or not at all."""
    folder = place.work / 'adding.part'
    remove(folder)
    (folder / 'new').mkdir(parents=True)
    write_names(folder / 'new' / LISTED, found.new)
    write_names(folder / REMOVED, found.removed)
    np.save(folder / 'new' / ROWS, np.array(found.rows, np.int64))
    write_text(folder / SETTINGS, json.dumps(settings, indent=2) + '\n')
    folder.rename(place.adding)


def read_added(place: OutFolder) -> dict:
    """Settings of the adding that was begun; none if none was."""
    path = place.adding / SETTINGS
    return read_json(path, 'root') if path.exists() else {}


def new_vectors(place: OutFolder, features: str | None) -> tuple[Tensor | None, Sequence[str]]:
    """Vectors of the new images, and their names; None if there are none.

    Args:
        place: of the result.
        features: file of given vectors; None for those that a network has made.
    """
    folder = place.adding / 'new'
    if features:
        rows = np.load(folder / ROWS)
        names = Names(folder / LISTED)
        return (open_vectors(features)[torch.from_numpy(rows)] if len(rows) else None), names
    if not (folder / VECTORS).exists():
        return None, []
    return open_vectors(folder / VECTORS), Names(folder / KEPT)


def check_width(x_AD: Tensor, y_BD: Tensor | None) -> None:
    """ValueError if new vectors (B, D) are not as wide as those of the result (A, D)."""
    if y_BD is not None and y_BD.shape[1] != x_AD.shape[1]:
        raise ValueError(
            f'The new vectors have {y_BD.shape[1]} numbers, those of the result {x_AD.shape[1]}. '
            'Take the same network.'
        )


def combined(
    place: OutFolder,
    settings: dict,
    old: tuple[Tensor, Names],
    new: tuple[Tensor | None, Sequence[str]],
    before: dict,
    assigned: tuple[Tensor, Tensor, Tensor] | None,
) -> Sorted:
    """Old images that are still there, then new ones; vectors and names are written.

    Args:
        place, settings: of the sort.
        old, new: vectors and names of the result, and of new images.
        before: what the result has found.
        assigned: label, similarity and margin of the new images; None without any.

    Raises:
        ValueError: if no image is left.
    """
    (x_AD, names), (y_BD, new_names) = old, new
    gone = set(Names(place.adding / REMOVED))
    rows = np.array([row for row, name in enumerate(names) if name not in gone], np.int64)
    if not len(rows) and y_BD is None:
        raise ValueError('No image of the result is left. Sort another folder anew.')
    write_names(place.adding / KEPT, [*(names[row] for row in rows.tolist()), *new_names])
    shape = (len(rows) + len(new_names), x_AD.shape[1])
    write_rows(place.adding / VECTORS, shape, both(x_AD, rows, y_BD))
    return joined(settings, Names(place.adding / KEPT), before, torch.from_numpy(rows), assigned)


def both(x_AD: Tensor, rows: np.ndarray, y_BD: Tensor | None) -> Iterator[np.ndarray]:
    """Rows of the old vectors, then all new ones, in chunks."""
    yield from parts_of(x_AD, rows)
    if y_BD is not None:
        yield from parts_of(y_BD, np.arange(len(y_BD)))


def joined(
    settings: dict,
    names: Names,
    before: dict,
    rows: Tensor,
    assigned: tuple[Tensor, Tensor, Tensor] | None,
) -> Sorted:
    """Labels of old rows as they were, and those of new ones."""
    old = [before[name][rows] for name in ('label', 'similarity', 'margin', 'rank')]
    if assigned is not None:
        new = [*assigned, torch.zeros_like(assigned[0])]
        old = [torch.cat(pair) for pair in zip(old, new, strict=True)]
    label, similarity, margin, rank = old
    return Sorted(
        settings['root'],
        names,
        label,
        similarity,
        margin,
        before['centers'],
        levels_with_sizes(before['levels'], label, len(before['centers'])),
        group=torch.full_like(label, -1),
        keep=torch.ones_like(label, dtype=torch.bool),
        rank=rank,
        model=before['model'],
        facts=dict(num_moved=before['num_moved']),
    )


def levels_with_sizes(levels: list[dict], label: Tensor, num_clusters: int) -> list[Level]:
    """Coarser levels with the sizes of today."""
    size, found = torch.bincount(label, minlength=num_clusters), []
    for level in levels:
        size = torch.zeros(len(level['centers']), dtype=torch.int64).index_add_(
            0, level['parent'], size
        )
        found.append(Level(level['parent'], size, level['centers']))
    return found


def listed_in(folder: str | None, root: str, names: Sequence[str]) -> list[str]:
    """Names of the images of a folder as a result has them: absolute, if it is another folder."""
    if folder is None or folder == root:
        return list(names)
    return [os.path.join(folder, name) for name in names]


def stage_vectors(place: OutFolder, staging: Path) -> None:
    """Move the combined vectors and names to where they are published from."""
    for name in (VECTORS, KEPT):
        shutil.move(place.adding / name, staging / place.work.name / name)
