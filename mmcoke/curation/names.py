"""Names of images, as many as there are: on the disk, as the file system spells them."""

import codecs
import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from mmcoke.files import write_whole

END = b'\0'
"""After each name in the file: the one byte that no name holds."""


class Names(Sequence):
    """Names in a file that :func:`write_names` has written; only those asked for are read.

    Args:
        path: of the file.
    """

    def __init__(self, path: str | Path) -> None:
        empty = not os.path.getsize(path)
        self.content = np.zeros(0, np.uint8) if empty else np.memmap(path, np.uint8, 'r')
        self.ends = np.flatnonzero(self.content == 0)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> str:
        row = range(len(self))[row]
        start = self.ends[row - 1] + 1 if row else 0
        return os.fsdecode(self.content[start : self.ends[row]].tobytes())

    @property
    def digest(self) -> str:
        """Hash of all names and their order."""
        return hashlib.sha256(self.content).hexdigest()


def write_names(path: str | Path, names: Iterable[str]) -> Names:
    """Write names whole; open them."""

    def write(temporary: Path) -> None:
        with temporary.open('wb') as file:
            file.writelines(os.fsencode(name) + END for name in names)

    write_whole(Path(path), write)
    return Names(path)


def read_paths(path: str | Path) -> list[str]:
    """The lines of a list of paths, to the letter: spaces belong to the names.

    Lines end as on any system; or with NUL, as those of ``find -print0``, if one is there. A
    byte-order mark is no part of the first line; empty lines are none.
    """
    content = Path(path).read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        content = content.decode('utf-16').encode()
    content = content.removeprefix(codecs.BOM_UTF8)
    if END in content:
        lines = content.split(END)
    else:
        lines = [line.removesuffix(b'\r') for line in content.split(b'\n')]
    return [os.fsdecode(line) for line in lines if line]
