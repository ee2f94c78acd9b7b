"""Checkpoints that are read safely and written whole."""

import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.fileio import LocalBackend, register_backend
from mmengine.logging.history_buffer import HistoryBuffer

try:
    from numpy._core import multiarray
except ImportError:  # numpy 1
    from numpy.core import multiarray


def statistics_method(owner: type, name: str) -> Callable:
    """Stands in for ``getattr``, with which ``HistoryBuffer`` pickles its own methods.

    Raises:
        UnpicklingError: for anything but such a method, so no checkpoint reaches other attributes.
    """
    if owner is HistoryBuffer and name in ('min', 'max', 'current', 'mean'):
        return getattr(HistoryBuffer, name)
    raise pickle.UnpicklingError(f'A checkpoint may not look up {name!r} of {owner!r}.')


# Since torch 2.6 ``weights_only`` is the default of torch.load, and mmengine 0.10.7 cannot resume
# its own checkpoints: they pickle the log history, with numpy numbers in it. The classes below only
# hold numbers; ``weights_only`` stays on for everything else.
torch.serialization.add_safe_globals(
    [
        HistoryBuffer,
        (statistics_method, 'builtins.getattr'),
        np.ndarray,
        np.dtype,
        *{type(np.dtype(name)) for name in ('float64', 'float32', 'int64', 'int32')},
        # Either numpy reads the other's checkpoints.
        *(
            (getattr(multiarray, name), f'numpy.{package}.multiarray.{name}')
            for name in ('_reconstruct', 'scalar')
            for package in ('core', '_core')
        ),
    ]
)


def read_checkpoint(path: str | Path, map_location: str = 'cpu') -> Any:
    """Load a file without running code from it (``weights_only``).

    Raises:
        OSError: if the file cannot be opened.
        ValueError: if it is damaged, or needs more than tensors, plain values and the classes that
            this module allows.
    """
    with open(path, 'rb') as file:
        try:
            return torch.load(file, map_location=map_location, weights_only=True)
        # Damaged pickles raise nearly anything, OSError included.
        except Exception as error:
            raise ValueError(f'{path} {load_problem(error)}') from error


def load_problem(error: Exception) -> str:
    """What ``torch.load`` stumbled over, and the remedy."""
    if isinstance(error, pickle.UnpicklingError) and 'Unsupported operand' not in str(error):
        found = re.search(r'GLOBAL (\S+)', str(error))
        return (
            f'is refused: it holds {found[1] if found else "something"}, which is no tensor or '
            'plain value, and loading it could run code. If you trust its author, load it in '
            'an environment of its own with weights_only=False and save state_dict, epoch and arch '
            'alone.'
        )
    return (
        f'cannot be read as a checkpoint; it is cut off, damaged or of another kind '
        f'({type(error).__name__}). Copy or download it again, and compare the sizes.'
    )


def write_whole(dst: Path, write: Callable[[Path], None]) -> None:
    """Write a file whole or not at all: under another name in its folder, then rename it."""
    dst.parent.mkdir(parents=True, exist_ok=True)
    temporary = dst.with_name(f'.{dst.name}.{os.getpid()}.tmp')
    try:
        write(temporary)
        with temporary.open('rb') as file:
            os.fsync(file.fileno())
        temporary.replace(dst)
    finally:
        temporary.unlink(missing_ok=True)


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


def checkpoint_to_resume(work_dir: str | Path, checkpoint: str | None = None) -> str | None:
    """The checkpoint to go on from: the given one, or the last one in a work dir.

    Args:
        work_dir: where the run saves its checkpoints.
        checkpoint: path of a certain one; None for the last.

    Returns:
        A path that :func:`torch.load` can read, or None if there is no checkpoint yet.

    Raises:
        ValueError: if the checkpoint is missing or damaged; names the one before it.
    """
    saved = sorted(Path(work_dir).glob('*_*.pth'), key=lambda path: path.stat().st_mtime)
    if checkpoint is None:
        note = Path(work_dir) / 'last_checkpoint'
        noted = note.read_text().strip() if note.is_file() else ''
        checkpoint = noted if Path(noted).is_file() else next(map(str, reversed(saved)), None)
    if checkpoint is None or '://' in checkpoint:
        return checkpoint
    try:
        read_checkpoint(checkpoint, map_location='meta')
    except (OSError, ValueError) as error:
        damaged = Path(checkpoint).resolve()
        others = [str(path) for path in saved if path.resolve() != damaged]
        remedy = f'Resume from the one before: --resume {others[-1]}' if others else 'Start anew.'
        raise ValueError(f'Cannot resume: {error} {remedy}') from error
    return checkpoint
