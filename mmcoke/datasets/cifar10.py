"""Where the two splits of CIFAR-10 are read from, and smaller ones."""

from pathlib import Path

import numpy as np

from mmcoke.files import write_whole

from .in_memory import load_split

NAMES = dict(train='cifar10_train.npz', test='cifar10_test.npz')
ARCHIVE = 'cifar-10-python'
"""Name of the published file, but for ``.tar.gz``."""


def cifar10_sources(folder: str | Path, *, download: bool = True) -> dict[str, str | dict]:
    """Sources for ``InMemoryImages`` of the splits ``train`` and ``test``.

    Args:
        folder: with ``cifar10_train.npz`` and ``cifar10_test.npz`` (``x``, ``y``), or with the
            published archive, unpacked or not.
        download: whether mmpretrain may download that archive where nothing is there.

    Raises:
        ValueError: if a folder holds neither, and nothing may, or can, be downloaded.
    """
    paths = {split: Path(folder) / name for split, name in NAMES.items()}
    there = [path for path in paths.values() if path.is_file()]
    if len(there) == len(paths):
        return {split: str(path) for split, path in paths.items()}
    archived = any(Path(folder).glob('cifar-10-*'))
    if there or not (archived or download):
        raise ValueError(
            f'{folder} holds neither {" and ".join(NAMES.values())} (x: uint8 (n, 32, 32, 3) in '
            f'RGB, y: labels) nor {ARCHIVE}.tar.gz. Name a folder that does: --data FOLDER, or let '
            'the archive be downloaded into one: --download'
        )
    archive = dict(type='CIFAR10', data_root=str(folder))
    sources = {split: dict(archive, split=split) for split in NAMES}
    try:
        load_split(sources['test'], 'all')  # mmpretrain downloads here
    except (OSError, RuntimeError, AssertionError) as error:
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise ValueError(
            f'The archive of CIFAR-10 is not in {folder} and could not be downloaded ({reason}). '
            f'Put {ARCHIVE}.tar.gz or {" and ".join(NAMES.values())} there, or name a folder that '
            'has them: --data FOLDER'
        ) from error
    return sources


def write_part(source: str | dict, num_images: int, path: Path) -> None:
    """Write ``num_images`` images of a source, with all classes in equal shares, as ``.npz``.

    Always the same images. Classes differ by one image at most, if each has enough.

    Raises:
        ValueError: if there are no labels, or fewer images.
    """
    images, labels = load_split(source, 'all')
    if labels is None or not 1 <= num_images <= len(images):
        found = 'no labels' if labels is None else f'{len(images)} images'
        raise ValueError(f'{num_images} images cannot be chosen by class: {source} has {found}.')
    rows = stratified(labels, num_images)
    write_whole(path, lambda part: save_npz(part, x=images[rows], y=labels[rows]))


def save_npz(path: Path, **arrays: np.ndarray) -> None:
    """Write arrays to exactly this name (``np.savez`` would add ``.npz`` to a path)."""
    with path.open('wb') as file:
        np.savez(file, **arrays)


def stratified(labels: np.ndarray, num_images: int) -> np.ndarray:
    """Rows of ``num_images`` images that take turns among the classes, sorted; always the same."""
    shuffled = np.random.default_rng(0).permutation(len(labels))
    turn = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        rows = shuffled[labels[shuffled] == label]
        turn[rows] = np.arange(len(rows))
    return np.sort(np.lexsort((labels, turn))[:num_images])
