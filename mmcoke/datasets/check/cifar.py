"""CIFAR, as published or as arrays."""

from collections import Counter
from pathlib import Path

import numpy as np
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import check_integrity

from mmcoke.datasets.in_memory import load_npz

from .report import DOWNLOADS, DataError, Report

CIFAR10_IMAGES = dict(train=50_000, test=10_000)


def check_cifar(report: Report) -> None:
    """CIFAR-10 or CIFAR-100 as published for Python, or CIFAR-10 as two ``.npz`` files."""
    root = report.root
    arrays = {split: root / f'cifar10_{split}.npz' for split in CIFAR10_IMAGES}
    found = any(path.is_file() for path in arrays.values())
    official = [kind for kind in (CIFAR10, CIFAR100) if (root / kind.base_folder).is_dir()]
    if not found and not official:
        raise DataError(f'There is no CIFAR in {root}.', DOWNLOADS['cifar'])
    for kind in official:
        check_cifar_files(report, kind)
    for split, path in arrays.items() if found else ():
        check_cifar_arrays(report, path, CIFAR10_IMAGES[split])


def check_cifar_files(report: Report, kind: type[CIFAR10]) -> None:
    """The published files, by their MD5 sums."""
    folder = report.root / kind.base_folder
    files = [*kind.train_list, *kind.test_list, [kind.meta['filename'], kind.meta['md5']]]
    for name, md5 in files:
        if not check_integrity(folder / name, md5):
            state = 'damaged' if (folder / name).exists() else 'absent'
            report.problems.append(
                DataError(f'{folder / name} is {state}.', f'Unpack {kind.filename} again.')
            )
    report.facts.append(f'{kind.base_folder}: {len(files)} files compared with their MD5 sums')


def check_cifar_arrays(report: Report, path: Path, num_images: int) -> None:
    """An ``.npz`` file for ``InMemoryImages``: ``x``, ``y`` and ``classes``."""
    remedy = f'Write {path.name} again. {DOWNLOADS["cifar"]}'
    try:
        if not path.is_file():
            raise ValueError(f'{path} is absent.')
        images, labels = load_npz(str(path))
    except ValueError as error:
        report.problems.append(DataError(str(error), remedy))
        return
    counts = Counter([] if labels is None else labels.tolist())
    expected = {label: num_images // 10 for label in range(10)}
    report.facts.append(f'{path.name}: {len(images):,} images of {len(counts)} classes')
    if images.shape != (num_images, 32, 32, 3):
        what = f'x in {path} is {images.shape} instead of ({num_images}, 32, 32, 3).'
        report.problems.append(DataError(what, remedy))
    if counts != expected:
        what = f'y in {path} should have {num_images // 10:,} images of each label 0 ... 9, but has'
        found = ', '.join(f'{count:,} of {label}' for label, count in sorted(counts.items())[:12])
        report.problems.append(DataError(f'{what} {found or "none"}.', remedy))
    with np.load(path, allow_pickle=False) as arrays:
        if len(arrays.get('classes', ())) != 10:
            report.problems.append(DataError(f'{path} has no 10 names in classes.', remedy))
