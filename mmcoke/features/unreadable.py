"""Images that cannot be read: noted while the others are, and named all at once."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from mmengine.dataset import default_collate
from torch import Tensor
from torch.utils.data import Dataset

from mmcoke.datasets import UnreadableImageError
from mmcoke.datasets.in_memory import whole_batch
from mmcoke.datasets.loading import reason_of
from mmcoke.files import write_whole
from mmcoke.messages import some

UNREADABLE = 'unreadable.txt'
"""File beside the results: a line per image that cannot be read, with the reason."""


class Unreadable(NamedTuple):
    """An image that cannot be read.

    Attributes:
        row: its index in the data set.
        name: its path, or what else the data set calls it.
        reason: why not.
    """

    row: int
    name: str
    reason: str

    def __str__(self) -> str:
        return f'{self.name} ({self.reason})'


class WholeBatch(NamedTuple):
    """A batch of images that are in memory, so none of them is unreadable.

    Attributes:
        rows: of the data set (n,).
        images: uint8 (n, C, H, W).
    """

    rows: list[int]
    images: Tensor


class Noted(Dataset):
    """Samples of a data set with their rows; in place of one that cannot be read a note.

    Args:
        dataset: raises ``UnreadableImageError`` or an ``OSError`` for such images.
        rows: of the data set, in the order that they are wanted in.
    """

    def __init__(self, dataset: Dataset, rows: Sequence[int]) -> None:
        self.dataset, self.rows = dataset, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple[int, dict] | Unreadable:
        row = int(self.rows[i])
        try:
            return row, self.dataset[row]
        except (UnreadableImageError, OSError) as error:
            return note_of(error, row)


class Unlabelled(Noted):
    """As :class:`Noted`, without data samples where images in memory are one tensor already."""

    def __getitems__(self, positions: Sequence[int]) -> list | WholeBatch:
        """Samples of a batch, for torch's loaders."""
        rows = [int(self.rows[i]) for i in positions]
        batch = whole_batch(self.dataset, rows)
        return [self[i] for i in positions] if batch is None else WholeBatch(rows, batch.images)


def note_of(error: Exception, row: int) -> Unreadable:
    """The note of an image whose reading failed."""
    name = getattr(error, 'name', None) or getattr(error, 'filename', None) or f'image {row}'
    return Unreadable(row, str(name), reason_of(error))


def collate(
    samples: list | WholeBatch, stack: Callable[[list], dict] = default_collate
) -> tuple[list[int], dict | None, list[Unreadable]]:
    """Rows and batch of the images that were read (None if none was), and notes of the others."""
    if isinstance(samples, WholeBatch):
        return samples.rows, dict(inputs=samples.images, data_samples=None), []
    notes = [sample for sample in samples if isinstance(sample, Unreadable)]
    found = [sample for sample in samples if not isinstance(sample, Unreadable)]
    rows = [row for row, _ in found]
    return rows, stack([sample for _, sample in found]) if found else None, notes


def write_notes(path: Path, notes: Iterable[Unreadable]) -> None:
    """Write a line per image, ``NAME<tab>REASON``, as the file system spells the names."""
    lines = ''.join(f'{note.name}\t{note.reason}\n' for note in notes)
    write_whole(path, lambda part: part.write_bytes(lines.encode('utf-8', 'surrogateescape')))


def check_readable(
    notes: Sequence[Unreadable], num_images: int, *, where: str = '', skip: str = ''
) -> None:
    """UnreadableImageError that names the first of the images, and the remedies, if there are any.

    Args:
        notes: of all images that cannot be read.
        num_images: of the data set.
        where: a sentence on where all of them are named.
        skip: what to do to leave them out, where that can be.
    """
    if notes:
        raise UnreadableImageError(
            f'{len(notes):,} of {num_images:,} images cannot be read: {some(notes)}. {where}Repair '
            'or replace them (tools/check_data.py folder ROOT checks all images of a folder) and '
            f'do the same again{f", or leave them out: {skip}" if skip else ""}.'
        )
