"""The folder of a sort: what it holds, and how results get there whole or not at all."""

import json
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from mmcoke.files import locked, read_json, write_text
from mmcoke.messages import shown

SUMMARY = 'summary.json'
RESULTS = (
    *('images.csv', 'images.parquet', 'clusters.csv', 'index.html', 'unreadable.txt'),
    *('removed.txt', 'label_studio.json', 'label_studio.xml', 'fiftyone', 'clusters', SUMMARY),
)
"""What a sort writes, in the order in which it comes to its place; who sees the last sees all."""


class OutFolder:
    """A folder with the results of a sort, and ``.work`` with what is needed to go on.

    Results are made in ``.work/staging``; :meth:`publish` then moves them to their places. Killed
    within, it goes on from ``.work/ready``.

    Args:
        path: of the folder; absolute.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.work = self.path / '.work'
        self.staging, self.adding = self.work / 'staging', self.work / 'adding'
        self._settings, self._ready = self.work / 'settings.json', self.work / 'ready.json'

    @property
    def is_new(self) -> bool:
        """Whether no sort was begun.

        Raises:
            ValueError: if there is something else in the folder.
        """
        if self._settings.exists():
            return False
        others = [p.name for p in self.path.iterdir()] if self.path.exists() else []
        if set(others) - {self.work.name}:
            raise ValueError(
                f'{shown(self.path)} holds other files ({shown(sorted(others)[0])}). Name a new '
                'folder: --out DIR.'
            )
        return True

    @property
    def is_ready(self) -> bool:
        """Whether all results are made, but perhaps not all in their places."""
        return self._ready.exists()

    @property
    def is_adding(self) -> bool:
        """Whether images are being added to a complete result."""
        return self.adding.exists()

    @property
    def is_finished(self) -> bool:
        """Whether there is a complete result, and nothing was begun since."""
        complete = (self.path / SUMMARY).exists() and not self.is_new
        return complete and not self.is_ready and not self.is_adding

    def lock(self) -> AbstractContextManager:
        """Keep others off.

        Raises:
            BlockingIOError: if another process works in the folder.
        """
        return locked(self.work / 'lock', 'another process')

    def forget_empty(self) -> None:
        """Remove a sort for which nothing was made yet, so that it may begin otherwise."""
        names = {path.name for path in self.work.iterdir()} if self.work.exists() else set()
        if names <= {'lock', 'listed', self._settings.name}:
            for name in names:
                (self.work / name).unlink()
            with suppress(OSError):  # the folder was there before, with something in it
                self.work.rmdir()
                self.path.rmdir()

    def forget_adding(self) -> None:
        """Remove what was begun to be added, unless its results are made."""
        if not self.is_ready:
            remove(self.adding)

    # ---- settings

    def settings(self) -> dict:
        """What the sort was begun with."""
        return read_json(self._settings, 'root')

    def write_settings(self, settings: Mapping) -> None:
        """Remember them, from the beginning of a sort."""
        write_text(self._settings, json.dumps(dict(settings), indent=2) + '\n')

    def summary(self) -> dict:
        """Content of ``summary.json`` of a complete result."""
        return read_json(self.path / SUMMARY)

    # ---- results

    def stage(self) -> Path:
        """An empty folder for results; ``.work`` in it is for what goes to ``.work``."""
        if self.staging.exists():
            shutil.rmtree(self.staging)
        (self.staging / self.work.name).mkdir(parents=True)
        return self.staging

    def publish(self) -> None:
        """Move what was staged to its places, and remove what is left of earlier results."""
        if not self.is_ready:
            names = [name for name in RESULTS if (self.staging / name).exists()]
            write_text(self._ready, json.dumps(dict(names=names)))
        names = read_json(self._ready, 'names')['names']
        inner = self.staging / self.work.name
        for path in sorted(inner.iterdir()) if inner.exists() else []:
            path.replace(self.work / path.name)
        for name in RESULTS:
            if name not in names:
                remove(self.path / name)
            elif (self.staging / name).exists():
                self.put(name)
        for path in (self.staging, self.adding, self.work / 'old'):
            remove(path)
        self._ready.unlink()

    def put(self, name: str) -> None:
        """Move one result, a file or a folder, over the one of before."""
        if (self.staging / name).is_dir() and (self.path / name).exists():
            remove(self.work / 'old')
            (self.path / name).rename(self.work / 'old')
        (self.staging / name).replace(self.path / name)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
