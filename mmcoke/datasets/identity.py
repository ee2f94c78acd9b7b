"""Which images a data set has: a key for each, by which its label is found again."""

import logging
import os
import pickle
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from itertools import takewhile
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from torch.utils.data import Dataset

from .wrappers import parts_of, without_repetition

KEYS = 'sample_keys'
"""Where a checkpoint has the keys of its images, int64 (A,); see :func:`sample_keys`."""

NO_IDENTITY = {'sample_idx', 'gt_label', 'img_shape'}
"""What a record says that does not tell images apart, or may change."""

OCCURRENCE = np.uint64(0x9E3779B97F4A7C15)
"""Odd: added once per earlier equal sample, it keeps their keys apart."""


def sample_keys(dataset: Dataset) -> np.ndarray | None:
    """One key per ``sample_idx``, the same wherever the data set lies: of its name, or its array.

    Files are not read: a file counts as its path below the folder of the data set; in a
    concatenation of folders, below the deepest folder that has them all. Labels do not count. Of
    equal samples each has its own key.

    Args:
        dataset: any; what only repeats samples is looked through.

    Returns:
        int64 (A,), or None if the records do not tell the samples apart.
    """
    leaves = list(leaves_of(without_repetition(dataset)))
    folders = [folder_of(leaf) for leaf in leaves]
    levels = zip(*(absolute(folder).split('/') for folder in folders if folder), strict=False)
    shared = list(takewhile(lambda names: len(set(names)) == 1, levels))
    keys = []
    for leaf, folder in zip(leaves, folders, strict=True):
        place = '/'.join(absolute(folder).split('/')[len(shared) :]) if folder else ''
        keys.append(leaf_keys(leaf, folder, place))
    keys = np.concatenate(keys)
    if len(keys) != sum(map(len, leaves)) or (len(keys) > 1 and (keys == keys[0]).all()):
        return None
    return (keys + earlier_equals(keys) * OCCURRENCE).view(np.int64)


def leaves_of(dataset: Dataset) -> Iterator[Dataset]:
    """The data sets that hold records, in the order of their samples."""
    parts = parts_of(dataset)
    if not parts:
        yield dataset
    for part in parts:
        yield from leaves_of(part)


def folder_of(leaf: Dataset) -> str:
    """Folder of the files of a data set, as its records name it; '' if it names none."""
    folder = getattr(leaf, 'img_prefix', '') or getattr(leaf, 'data_root', '') or ''
    return str(folder).rstrip('/')


def absolute(path: str) -> str:
    """A path as it is from the root, without looking at the file system; addresses as they are."""
    return path if '://' in path else os.path.abspath(path)


def leaf_keys(leaf: Dataset, folder: str, place: str) -> np.ndarray:
    """One key for each sample, uint64; empty if there are no records.

    Of names alone if they tell the samples apart; else (several samples in one file) of all that
    the records say.

    Args:
        leaf: holds the records.
        folder: with which file names in them begin.
        place: what stands for it.
    """
    keys = np.frombuffer(name_hashes(leaf, folder, place), np.uint64)
    if len(keys) == len(leaf) and len(np.unique(keys)) == len(keys):
        return keys
    hashes = (whole_hash(record, folder, place) for record in records_of(leaf))
    return np.frombuffer(b''.join(hashes), np.uint64)


def name_hashes(leaf: Dataset, folder: str, place: str) -> bytes:
    """8 bytes for each sample, up to the first that has no name; for millions of them."""
    hashes, head, skip = bytearray(), folder + '/', len(folder) + 1
    place = place and place + '/'
    for record in records_of(leaf):
        name = record.get('img_path')
        if not isinstance(name, str):
            break
        if name.startswith(head):
            name = place + name[skip:]
        hashes += short_hash(name.encode('utf-8', 'surrogateescape'))
    return bytes(hashes)


def name_keys(names: Iterable[str]) -> np.ndarray:
    """Keys of files by their paths below the folder of a data set; see :func:`sample_keys`."""
    hashes = (short_hash(name.encode('utf-8', 'surrogateescape')) for name in names)
    return np.frombuffer(b''.join(hashes), np.int64)


def short_hash(data: bytes) -> bytes:
    return blake2b(data, digest_size=8).digest()


def records_of(leaf: Dataset) -> Iterator[dict]:
    """What the data set knows of each sample before it is loaded."""
    own = getattr(type(leaf), 'get_data_info', None)
    if own is BaseDataset.get_data_info and leaf.serialize_data:
        # Half of the time of get_data_info, which counts at a million samples.
        data, begin = memoryview(leaf.data_bytes), 0
        for end in leaf.data_address.tolist():
            yield pickle.loads(data[begin:end])
            begin = end
    elif own is not None:
        yield from map(leaf.get_data_info, range(len(leaf)))


def whole_hash(record: dict, folder: str, place: str) -> bytes:
    """Of the array ``img`` if there is one, else of all plain values of a record."""
    values = {key: value for key, value in record.items() if key not in NO_IDENTITY}
    if hasattr(values.get('img'), '__array__'):
        values = dict(img=values['img'])
    parts = [part for _, value in sorted(values.items()) for part in encoded(value, folder, place)]
    # A record of a name alone has the hash of the name.
    return short_hash(parts[0] if len(parts) == 1 else b'\0'.join([b'', *parts]))


def relative(path: str, folder: str, place: str) -> bytes:
    """A file's path below the folder, or the whole one if it lies elsewhere."""
    if folder and path.startswith(folder + '/'):
        path = f'{place.rstrip("/")}{path[len(folder) :]}'.lstrip('/')
    return path.encode('utf-8', 'surrogateescape')


def encoded(value: Any, folder: str, place: str) -> Iterator[bytes]:
    """Bytes of a plain value or an array; nothing of what may differ from run to run."""
    if isinstance(value, str):
        yield relative(value, folder, place)
    elif isinstance(value, bytes):
        yield value
    elif isinstance(value, (bool, int, float, np.generic)):
        yield repr(value).encode()
    elif hasattr(value, '__array__'):
        array = np.ascontiguousarray(value)
        yield from (str(array.dtype).encode(), str(array.shape).encode(), array.tobytes())
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from encoded(item, folder, place)


def earlier_equals(keys: np.ndarray) -> np.ndarray:
    """For each key, how many equal ones are ahead of it, uint64 (A,)."""
    order = np.argsort(keys, kind='stable')
    first = np.r_[True, keys[order][1:] != keys[order][:-1]]
    place = np.arange(len(keys))
    rank = np.empty(len(keys), np.uint64)
    rank[order] = place - np.maximum.accumulate(np.where(first, place, 0))
    return rank


def rows_of_before(keys: np.ndarray, before: np.ndarray) -> np.ndarray:
    """For each sample, its row in an earlier version of the data set; -1 for a new one.

    Args:
        keys, before: of :func:`sample_keys` (A,), (B,).

    Returns:
        int64 (A,).
    """
    order = np.argsort(before)
    place = np.searchsorted(before[order], keys).clip(max=len(before) - 1)
    return np.where(before[order[place]] == keys, order[place], -1)


def say_unknown(source: object) -> None:
    """Warn that a checkpoint or a data set does not say which images it has."""
    print_log(
        f'{source} does not say which images it has, so labels go by position. They are right only '
        'if the images are those that the checkpoint was made with, in the same order.',
        logger='current',
        level=logging.WARNING,
    )
