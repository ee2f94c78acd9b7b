"""Files that are read safely and written whole. The ground floor: torch and no framework."""

import errno
import glob
import hashlib
import json
import math
import os
import pickle
import re
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

try:
    from numpy._core import multiarray
except ImportError:  # numpy 1
    from numpy.core import multiarray


ZIP_MAGIC = b'PK\x03\x04'
"""First bytes of what torch.save writes since torch 1.6."""

NPY_MAGIC = np.lib.format.MAGIC_PREFIX

BLOCK = 1 << 20
"""Bytes that are read at once."""


class LogHistory:
    """Stands in for mmengine's ``HistoryBuffer`` where mmengine is not imported."""

    min = max = current = mean = None


def log_history() -> type:
    """The class of the log history in mmengine's checkpoints; it only holds numbers."""
    module = sys.modules.get('mmengine.logging.history_buffer')
    return module.HistoryBuffer if module else LogHistory


def statistics_method(owner: type, name: str) -> Callable:
    """Stands in for ``getattr``, with which ``HistoryBuffer`` pickles its own methods.

    Raises:
        UnpicklingError: for anything but such a method, so no checkpoint reaches other attributes.
    """
    if owner is log_history() and name in ('min', 'max', 'current', 'mean'):
        return getattr(owner, name)
    raise pickle.UnpicklingError(f'A checkpoint may not look up {name!r} of {owner!r}.')


def readable_classes() -> list:
    """What a checkpoint may hold beside tensors and plain values, for torch's safe globals.

    mmengine's checkpoints pickle the log history, with numpy numbers in it.
    """
    return [
        (log_history(), 'mmengine.logging.history_buffer.HistoryBuffer'),
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


@contextmanager
def allowed(classes: list) -> Iterator[None]:
    """Let torch read these classes; torch's own context forgets those that were allowed before."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals(classes)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def read_checkpoint(path: str | Path, map_location: Any = 'cpu', *, mmap: bool = False) -> Any:
    """Load a file without running code from it: ``weights_only``, set here whatever the variables
    of the environment say. Every file of weights is read by this function.

    Args:
        path: of the file.
        map_location: device of the tensors, as for ``torch.load``.
        mmap: leave the tensors on the disk until they are used.

    Raises:
        OSError: if the file cannot be opened.
        ValueError: if it is damaged, as far as check sums tell (files of before torch 1.6 have
            none), or needs more than tensors, plain values and the classes that this module allows.
    """
    with open(path, 'rb') as file, allowed(readable_classes()):
        try:
            check_sums(file)
            source = str(path) if mmap else file
            return torch.load(source, map_location=map_location, mmap=mmap, weights_only=True)
        except WrongSumError as error:
            raise ValueError(f'{path} {error}') from error
        # Damaged pickles raise nearly anything, OSError included.
        except Exception as error:
            raise ValueError(f'{path} {load_problem(error)}') from error


class WrongSumError(ValueError):
    """The content of a file is not that of its check sums."""


def check_sums(file: BinaryIO) -> None:
    """Compare a file of ``torch.save`` with the check sums in it, at which torch does not look.

    Block by block, so no second copy is in memory. Afterwards the file is at its beginning.

    Raises:
        WrongSumError: if one is wrong.
        Exception: nearly any, if it is cut off or the zip is damaged elsewhere.
    """
    if file.read(len(ZIP_MAGIC)) == ZIP_MAGIC:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            # torch.serialization.set_crc32_options(False) writes zeros instead.
            if any(member.CRC for member in members):
                for member in members:
                    check_sum(archive, member)
    file.seek(0)


def check_sum(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Compare one file in a zip with its check sum; see :func:`check_sums`."""
    try:
        with archive.open(member) as stream:
            while stream.read(BLOCK):
                pass
    except zipfile.BadZipFile as error:
        raise WrongSumError(
            'is damaged: a check sum within it is wrong. Copy or download it again.'
        ) from error


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
    remove_leftovers(dst.parent, dst.name)
    temporary = dst.with_name(f'.{dst.name}.{os.getpid()}.tmp')
    try:
        write(temporary)
        with temporary.open('rb') as file:
            os.fsync(file.fileno())
        temporary.replace(dst)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: str | Path, name: str = '*') -> None:
    """Remove what killed processes have left of :func:`write_whole`, of one file or of a folder."""
    for path in Path(folder).glob(f'.{"*" if name == "*" else glob.escape(name)}.*.tmp'):
        process = path.name.split('.')[-2]
        if process.isdecimal() and not is_running(int(process)):
            path.unlink(missing_ok=True)


def is_running(process: int) -> bool:
    """Whether a process of this machine exists."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # another user's
    return True


def save_torch(content: Any, path: str | Path) -> None:
    """``torch.save`` straight to the disk; the path's name is not put into the content.

    Raises:
        OSError: if it cannot be written; torch would raise a RuntimeError about positions.
    """
    try:
        with open(path, 'wb') as file:
            torch.save(content, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


@contextmanager
def locked(path: Path, owner: str) -> Iterator[None]:
    """Hold a lock; it goes with the process, however that ends, and not to its children.

    A file system or an operating system without locks is taken as unlocked.

    Args:
        path: of a file that is made for this.
        owner: what others are told about the holder.

    Raises:
        BlockingIOError: if another process holds it; ``strerror`` is its owner.
    """
    if os.name == 'nt':  # which has no such locks
        yield
        return
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'a+', encoding='utf-8') as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                file.seek(0)
                raise BlockingIOError(errno.EAGAIN, file.read(), str(path)) from None
        file.truncate(0)
        file.write(owner)
        file.flush()
        yield


def write_text(dst: str | Path, text: str) -> None:
    """Write a text file whole, as :func:`write_whole` does."""
    write_whole(Path(dst), lambda path: path.write_text(text, encoding='utf-8'))


def read_json(path: str | Path, *keys: str) -> dict:
    """A JSON file that this package has written, with certain keys.

    Raises:
        OSError: if it cannot be opened.
        ValueError: if it is damaged or of another kind, with the remedy.
    """
    try:
        content = json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        reason = f'{type(error).__name__}: {error}'
    else:
        known = content if isinstance(content, dict) else ()
        missing = [key for key in keys if key not in known]
        if isinstance(content, dict) and not missing:
            return content
        reason = f'{", ".join(missing) or "an object"} is missing'
    raise ValueError(f'{path} is damaged or of another kind ({reason}). Remove it, and run again.')


def read_array(path: str | Path, *, mmap: bool = False) -> np.ndarray:
    """An ``.npy`` file, without running code from it.

    Args:
        path: of the file.
        mmap: leave the values on the disk until they are used.

    Raises:
        OSError: if it cannot be opened.
        ValueError: if it is damaged or holds objects, with the remedy.
    """
    with open(path, 'rb') as file:
        is_array = file.read(len(NPY_MAGIC)) == NPY_MAGIC  # numpy takes others for pickles
    try:
        if not is_array:
            raise ValueError('no .npy file')
        return np.load(path, mmap_mode='r' if mmap else None, allow_pickle=False)
    # A damaged header is evaluated, and raises nearly anything.
    except Exception as error:
        reason = ' '.join(str(error).split())
        raise ValueError(
            f'{path} is damaged or of another kind ({reason}). Remove its folder, and run again.'
        ) from error


def write_rows(dst: Path, shape: tuple[int, ...], parts: Iterable[np.ndarray]) -> None:
    """Write an ``.npy`` file whole, as :func:`write_whole` does, that is larger than the memory.

    With ordinary writes, not through a memory map: that ends the process without a word when the
    disk is full.

    Args:
        dst: the file.
        shape: of all.
        parts: its rows, in order; all in the type of the first part.
    """

    def write(temporary: Path) -> None:
        with temporary.open('wb') as file:
            for number, part in enumerate(parts):
                if number == 0:
                    header = np.lib.format.header_data_from_array_1_0(part)
                    header |= dict(shape=shape, fortran_order=False)
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(part.tobytes())

    write_whole(dst, write)


def plain(value: Any) -> Any:
    """A value that JSON knows; numbers and arrays of numpy and torch become Python's, NaN None."""
    if hasattr(value, 'tolist'):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, (int, bool, type(None))) else str(value)


def sha256_of(path: str | Path) -> str:
    """Of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
