"""Which images cannot be decoded."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from torch.utils.data import DataLoader, Dataset

from mmcoke.datasets.reading import UnreadableImageError, read_image
from mmcoke.files import read_json, write_text

BATCH = 64
"""Images that a worker decodes at once."""

SAVE_EVERY = 100
"""Batches between two notes of how far it got."""


class Decoded(Dataset):
    """What is wrong with each of some images from ``start`` on: a reason, or ''."""

    def __init__(self, paths: Sequence[str], start: int = 0) -> None:
        self.paths, self.start = paths, start

    def __len__(self) -> int:
        return len(self.paths) - self.start

    def __getitem__(self, row: int) -> str:
        return decode_problem(self.paths[self.start + row])


def decode_problem(path: str) -> str:
    """Why a file cannot be read for training and all else; '' if it can."""
    try:
        read_image(path)
    except UnreadableImageError as error:
        return error.reason
    return ''


def find_unreadable(
    paths: Sequence[str],
    state: Path,
    *,
    num_workers: int = 0,
    progress: Callable[[Iterable], Iterable] = iter,
) -> dict[str, str]:
    """Decode all images.

    Args:
        paths: of the images.
        state: file that says how far an interrupted call got; the next one with the same paths
            goes on there. It is removed in the end.
        num_workers: processes that decode; 0 for this one.
        progress: wraps the iterable of batches, such as ``rich.progress.track``.

    Returns:
        What is wrong, by path, in the order of ``paths``.
    """
    key = hashlib.sha256(os.fsencode('\n'.join(paths))).hexdigest()
    done, reasons = read_state(state, key)
    loader = DataLoader(
        Decoded(paths, done), BATCH, num_workers=num_workers, collate_fn=list, shuffle=False
    )
    for number, batch in enumerate(progress(loader), 1):
        reasons |= {str(done + i): reason for i, reason in enumerate(batch) if reason}
        done += len(batch)
        if number % SAVE_EVERY == 0:
            write_text(state, json.dumps(dict(key=key, done=done, reasons=reasons)))
    state.unlink(missing_ok=True)
    return {paths[int(row)]: reason for row, reason in reasons.items()}


def read_state(state: Path, key: str) -> tuple[int, dict[str, str]]:
    """How many images of the set with this key are done, and what was wrong with them."""
    if state.is_file():
        content = read_json(state, 'key', 'done', 'reasons')
        if content['key'] == key:
            return content['done'], content['reasons']
    return 0, {}
