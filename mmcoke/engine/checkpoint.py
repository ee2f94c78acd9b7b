"""mmengine's side of checkpoints: written whole, found again."""

import errno
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from shlex import quote

import torch
from mmengine.fileio import LocalBackend, register_backend
from mmengine.runner import runner as mmengine_runner
from mmengine.runner import save_checkpoint as save_in_memory

from mmcoke.files import read_checkpoint, readable_classes, save_torch, write_whole

# So that plain torch.load reads checkpoints of a training, too, with weights_only.
torch.serialization.add_safe_globals(readable_classes())

WHOLE_FILES = dict(backend='whole_files')
"""``backend_args`` of a ``CheckpointHook`` whose checkpoints are complete or not there."""


RESUMABLE = re.compile(r'(?!best_).*_\d+\.pth')
"""Names of what can be resumed from: best ones, and published ones with a hash, lack a part."""


class WorkDirError(OSError):
    """A run cannot write its files; says which checkpoint is good, and what to do."""


@register_backend('whole_files')
class WholeFilesBackend(LocalBackend):
    """mmengine's local files, written under another name first and then renamed.

    For ``CheckpointHook(backend_args=dict(backend='whole_files'))``: a checkpoint is complete or
    not there.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        write_whole(Path(filepath), lambda path: path.write_bytes(obj))

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        self.put(obj.encode(encoding), filepath)


def save_checkpoint(
    checkpoint: dict,
    filename: str,
    file_client_args: dict | None = None,
    backend_args: dict | None = None,
) -> None:
    """mmengine's, which gives a backend the whole file as bytes and so holds it in memory, twice;
    a whole file goes straight to the disk."""
    if backend_args == WHOLE_FILES:
        write_whole(Path(filename), lambda path: save_torch(checkpoint, path))
    else:
        save_in_memory(checkpoint, filename, file_client_args, backend_args)


mmengine_runner.save_checkpoint = save_checkpoint  # what Runner.save_checkpoint calls


def checkpoint_to_resume(work_dir: str | Path, checkpoint: str | None = None) -> str | None:
    """The checkpoint to go on from: the given one, or the last one in a work dir.

    Args:
        work_dir: where the run saves its checkpoints.
        checkpoint: path of a certain one; None for the last.

    Returns:
        A path that :func:`torch.load` can read, or None if there is no checkpoint yet.

    Raises:
        ValueError: if the checkpoint is missing or damaged; names the last good one.
    """
    saved = saved_checkpoints(work_dir)
    if checkpoint is None:
        checkpoint = last_checkpoint(work_dir, saved)
    if checkpoint is None or '://' in checkpoint:
        return checkpoint
    try:
        described(checkpoint)
    except (OSError, ValueError) as error:
        damaged = Path(checkpoint).resolve()
        good = next(good_checkpoints(p for p in saved if p.resolve() != damaged), None)
        remedy = (
            f'Resume from the one before: --resume {quote(str(good))}' if good else 'Start anew.'
        )
        raise ValueError(f'Cannot resume: {error} {remedy}') from error
    return checkpoint


def described(path: str | Path) -> dict:
    """A checkpoint that is whole, without the values of its tensors; not to be changed.

    The start of a run asks several times. The file is read once, unless it changes, until
    :func:`forget_described`.

    Raises as :func:`~mmcoke.files.read_checkpoint`.
    """
    status = os.stat(path)
    return _described(str(path), status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1)
def _described(path: str, mtime_ns: int, size: int) -> dict:
    return read_checkpoint(path, map_location='meta')


def forget_described() -> None:
    """Free what :func:`described` has kept, the history of the losses above all."""
    _described.cache_clear()


def last_checkpoint(work_dir: str | Path, saved: list[Path]) -> str | None:
    """The checkpoint that a work dir notes as its last, or its newest; None if there is none.

    The note has an absolute path, which in a copied work dir is another's: what counts is the name.

    Raises:
        ValueError: if the only one that is noted lies elsewhere.
    """
    note = Path(work_dir) / 'last_checkpoint'
    noted = Path(note.read_text().strip()) if note.is_file() else Path()
    beside = Path(work_dir) / noted.name
    if beside.is_file():
        return str(beside)
    if not saved and noted.is_file():
        raise ValueError(
            f'{note} names {noted}, which is not in this folder. In a copy of a work dir, copy the '
            f'checkpoint as well; to go on from that one: --resume {quote(str(noted))}'
        )
    return str(saved[0]) if saved else None


def saved_checkpoints(folder: str | Path) -> list[Path]:
    """What a run has saved by epochs or iterations, the newest first."""
    saved = [path for path in Path(folder).glob('*.pth') if RESUMABLE.fullmatch(path.name)]
    return sorted(saved, key=lambda path: path.stat().st_mtime, reverse=True)


def good_checkpoints(paths: Iterable[Path]) -> Iterator[Path]:
    """Those of them that are whole."""
    for path in paths:
        try:
            read_checkpoint(path, map_location='meta')
        except (OSError, ValueError):
            continue
        yield path


def require_writable(work_dir: str | Path) -> None:
    """Refuse a work dir in which no file can be made, before anything is trained.

    Raises:
        WorkDirError: with the reason.
    """
    try:
        Path(work_dir).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=work_dir) as file:
            file.write(b'x' * 4096)
            file.flush()
    except OSError as error:
        raise WorkDirError(
            f'Nothing can be written to the work dir {work_dir} ({error.strerror}). Make room '
            'there, or give another folder with --work-dir.'
        ) from error


def work_dir_error(error: OSError, work_dir: str | Path, what: str) -> WorkDirError:
    """What to tell about a file that could not be written.

    Args:
        error: of the operating system.
        work_dir: where the run saves its checkpoints.
        what: that was to be written.
    """
    good = next(good_checkpoints(saved_checkpoints(work_dir)), None)
    if good is None:
        state = 'There is no checkpoint yet. Make room, or give another --work-dir, and start anew.'
    else:
        state = (
            f'The last good checkpoint is {good}; make room there, then go on with --resume '
            f'{quote(str(good))}'
        )
    return WorkDirError(f'{what} could not be written ({error.strerror}). {state}')


def concerns(error: OSError, work_dir: str | Path) -> bool:
    """Whether a work dir is the trouble: its disk is full or read-only, or it is gone."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG):
        return True
    path = Path(error.filename if isinstance(error.filename, str) else '/').absolute()
    return path.is_relative_to(Path(work_dir).absolute()) and not path.parent.is_dir()
