"""Any folder of images."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mmcoke.messages import some

from .report import DataError, Report

EXTENSIONS = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif')
"""Of the files that mmpretrain's data sets take for images, whatever their case."""


def check_folder(report: Report) -> None:
    """Images in class folders, with or without ``train`` and ``val`` above them, or unlabelled."""
    names = [name for name in class_folders(report.root) if name in ('train', 'val', 'test')]
    folders = [report.root / name for name in names] or [report.root]
    classes = {}
    for folder in folders:
        images = find_images(folder)
        if not images:
            raise DataError(
                f'There is no image in {folder} or the folders below it.',
                f'Files count whose names end in {", ".join(EXTENSIONS)}.',
            )
        report.images += [f'{folder}/{name}' for name in images]
        counts = Counter(name.split('/')[0] for name in images if '/' in name)
        classes[folder.name] = class_folders(folder)
        describe_folder(report, folder, len(images), counts)
    check_same_classes(report, classes)


def describe_folder(report: Report, folder: Path, num_images: int, counts: Counter) -> None:
    """Facts and problems of a folder with this many images in each class folder."""
    classes = class_folders(folder)
    smallest = f', {min(counts.values()):,} to {max(counts.values()):,} in each' if counts else ''
    kind = f' in {len(classes):,} class folders{smallest}' if classes else ', without labels'
    report.facts.append(f'{folder.name}: {num_images:,} images{kind}')
    beside = num_images - counts.total()
    if classes and beside:
        report.facts.append(
            f'{folder.name}: {beside:,} images beside the class folders, seen without labels only'
        )
    if empty := [name for name in classes if not counts[name]]:
        report.problems.append(
            DataError(
                f'{len(empty):,} class folders of {folder} have no image: {some(empty)}.',
                'Fill or remove them: each folder counts as a class.',
            )
        )


def check_same_classes(report: Report, classes: dict[str, Sequence[str]]) -> None:
    """All splits need the same class folders, or their labels differ."""
    splits = {name: found for name, found in classes.items() if found}
    everything = sorted({name for found in splits.values() for name in found})
    for split, found in splits.items():
        if missing := [name for name in everything if name not in found]:
            report.problems.append(
                DataError(
                    f'{split} lacks {len(missing):,} class folders that another split has: '
                    f'{some(missing)}. The labels after them would differ between the splits.',
                    'Complete the split, or remove these classes from the others.',
                )
            )


def find_images(folder: Path) -> list[str]:
    """Images in a folder and those below it, as paths relative to it, in order."""
    found = []
    for parent, _, files in os.walk(folder, followlinks=True):
        below = Path(parent).relative_to(folder)
        found += [(below / file).as_posix() for file in files if is_image(file)]
    return sorted(found)


def is_image(file: str) -> bool:
    """Whether a file's name is that of an image."""
    return file.lower().endswith(EXTENSIONS)


def class_folders(folder: Path) -> list[str]:
    """Folders in a folder, in the order that gives them their labels."""
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
