"""Data sets whose labels are in list files: ImageNet, Places, iNaturalist."""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from mmcoke.datasets.listing import list_images, numbered_lines, split_label, write_list
from mmcoke.messages import shown, some

from .report import DOWNLOADS, DataError, Report

Lines = list[tuple[str, int]]
"""Content of a list file: images, as paths below the image folder, and their labels."""


@dataclass(frozen=True)
class Split:
    """One part of a :class:`ListedSet`.

    Attributes:
        name: ``'train'`` or ``'val'``.
        images: folder of the images, below the root of the data set.
        num_images: as published.
        list_file: below the root.
        make: the lines of a list file that is missing; gets root and split.
    """

    name: str
    images: str
    num_images: int
    list_file: str
    make: Callable[[Path, 'Split'], Lines]


@dataclass(frozen=True)
class ListedSet:
    """A data set of image files whose labels are in list files.

    Attributes:
        splits: its parts.
        num_classes: as published.
        download: where it comes from and what to unpack where.
        by_folder: whether the folder of an image is its class.
    """

    splits: tuple[Split, ...]
    num_classes: int
    download: str
    by_folder: bool = False


def check_named(report: Report) -> None:
    """A data set of :data:`LISTED`."""
    check_listed(report, LISTED[report.name])


def check_listed(report: Report, spec: ListedSet) -> dict[str, Lines]:
    """Check all splits of a data set; returns the lines of those that are complete."""
    complete = {}
    for split in spec.splits:
        try:
            lines, is_new = read_or_make(report.root, split, spec)
            present = set(list_images(report.root / split.images).images)
        except DataError as error:
            report.problems.append(error)
            continue
        problems = list(line_problems(lines, present, split, spec))
        report.problems += problems
        folder = report.root / split.images
        report.images += [f'{folder}/{name}' for name, _ in lines if name in present]
        labels = {label for _, label in lines}
        report.facts.append(f'{split.name}: {len(lines):,} images of {len(labels):,} classes')
        if not problems:
            complete[split.name] = lines
            if is_new:
                write_split(report, split.list_file, lines)
    return complete


def read_or_make(root: Path, split: Split, spec: ListedSet) -> tuple[Lines, bool]:
    """The lines of a split, and whether there was no list file yet."""
    folder = root / split.images
    if not folder.is_dir():
        raise DataError(f'There is no folder {folder}, of the {split.name} images.', spec.download)
    path = root / split.list_file
    return (read_list(path), False) if path.is_file() else (split.make(root, split), True)


def line_problems(
    lines: Lines, present: set[str], split: Split, spec: ListedSet
) -> Iterable[DataError]:
    """What is wrong with the lines of a split, given the images in its folder."""
    if len(lines) != split.num_images:
        yield DataError(
            f'{split.name} has {len(lines):,} images instead of {split.num_images:,}.',
            f'{spec.download} If {split.list_file} is older than the images, remove it, and this '
            'check makes it anew. A subset on purpose is checked by the name "folder".',
        )
    names = Counter(name for name, _ in lines)
    if repeated := [name for name, count in names.items() if count > 1]:
        yield DataError(
            f'{split.list_file} names {len(repeated):,} images twice: {some(repeated)}.',
            'Remove the file, and this check makes it anew.',
        )
    if absent := [name for name in names if name not in present]:
        yield DataError(
            f'{len(absent):,} images of {split.name} are absent from {split.images}: '
            f'{some(absent)}.',
            f'Unpack the archive of the {split.name} images again. {spec.download}',
        )
    yield from label_problems(lines, split, spec)


def label_problems(lines: Lines, split: Split, spec: ListedSet) -> Iterable[DataError]:
    """What is wrong with the labels of a split."""
    found, expected = {label for _, label in lines}, set(range(spec.num_classes))
    anew = f'Remove {split.list_file}, and this check makes it anew.'
    if left_over := sorted(found - expected):
        yield DataError(
            f'{split.list_file} has labels that are not 0 ... {spec.num_classes - 1}: '
            f'{some(left_over)}.',
            anew,
        )
    if missing := sorted(expected - found):
        yield DataError(
            f'{split.name} has no image of {len(missing):,} of the {spec.num_classes:,} classes '
            f'(labels {some(missing)}).',
            spec.download,
        )
    elif spec.by_folder and all('/' in name for name, _ in lines):
        folders = sorted({name.split('/')[0] for name, _ in lines})
        index = {folder: i for i, folder in enumerate(folders)}
        if wrong := [name for name, label in lines if index[name.split('/')[0]] != label]:
            yield DataError(
                f'{len(wrong):,} labels in {split.list_file} are not the position of the class '
                f'folder in alphabetical order: {some(wrong)}.',
                anew,
            )


def read_list(path: Path) -> Lines:
    """Lines of a list file: a path, a blank, a label."""
    lines = []
    for number, line in numbered_lines(path):
        name, label = split_label(line)
        if label is None or label < 0:
            raise DataError(
                f"Line {number} of {path} is not an image and a label: '{shown(line)[:80]}'.",
                'Remove the file, and this check makes it anew if it can.',
            )
        lines.append((name, label))
    return lines


def write_split(report: Report, name: str, lines: Lines) -> None:
    """Write a list file whole; a folder that cannot be written to is a problem."""
    path = report.root / name
    try:
        write_list(path, lines)
    except OSError as error:
        remedy = f'Make {path.parent} writable, or link the data into a folder that is.'
        report.problems.append(DataError(f'Cannot write {path} ({error.strerror}).', remedy))
    else:
        report.facts.append(f'wrote {path}')


# ---- how list files are made


def from_folders(root: Path, split: Split) -> Lines:
    """Each folder is a class; the order is that of mmpretrain's ``CustomDataset``."""
    folder = root / split.images
    listing = list_images(folder)
    if not listing.classes:
        raise DataError(
            f'{folder} has no class folders, so its {len(listing.images):,} images have no labels.',
            f'Sort them into a folder per class, or write {root / split.list_file} with an image '
            "and its label per line. For ImageNet, torchvision.datasets.ImageNet(root, 'val') "
            'sorts ILSVRC2012_img_val.tar beside ILSVRC2012_devkit_t12.tar.gz.',
        )
    label = {name: row for row, name in enumerate(listing.classes)}
    return [(image, label[image.split('/', 1)[0]]) for image in listing.by_class]


def from_annotations(root: Path, split: Split) -> Lines:
    """From iNaturalist's annotations, in COCO's format with paths that start at the root."""
    path = root / f'{split.name}2018.json'
    if not path.is_file():
        raise DataError(
            f'The labels of {split.name} are missing: there is neither {split.list_file} nor '
            f'{path.name} in {root}.',
            f'Unpack {path.name} there, and this check makes {split.list_file}.',
        )
    try:
        content = json.loads(path.read_bytes())
        label = {row['image_id']: row['category_id'] for row in content['annotations']}
        images = [(image['file_name'], label[image['id']]) for image in content['images']]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f'{path} is cut off or of another format ({type(error).__name__}: {error}).',
            'Download and unpack it again.',
        ) from error
    return [(name.removeprefix(f'{split.images}/'), label) for name, label in images]


def not_made(root: Path, split: Split) -> Lines:
    """For lists that only the data set itself has."""
    raise DataError(
        f'The labels of {split.name} are missing: there is no {split.list_file} in {root}.',
        f'Unpack {Path(split.list_file).parts[0]} there.',
    )


# ---- ImageNet


def check_imagenet(report: Report) -> None:
    """ImageNet-1k and, where they are, the lists of 1 % and 10 % of it."""
    train = check_listed(report, LISTED['imagenet']).get('train')
    for name in SUBSETS if train else ():
        if (report.root / name).is_file():
            check_subset(report, name, set(train))
        else:
            report.facts.append(
                f'no {name}, for training with few labels: tools/benchmarks/label_list.py makes it'
            )


def check_subset(report: Report, name: str, train: set[tuple[str, int]]) -> None:
    """The lines of a list of a part of the training images must be among all of them."""
    lines = read_list(report.root / name)
    report.facts.append(f'{name}: {len(lines):,} images')
    if unknown := [' '.join(map(str, line)) for line in lines if line not in train]:
        report.problems.append(
            DataError(
                f'{name} has {len(unknown):,} lines that train has not: {some(unknown)}.',
                'Make it anew with tools/benchmarks/label_list.py.',
            )
        )


# ---- the published sizes

SUBSETS = ('meta/train_1percent.txt', 'meta/train_10percent.txt')
"""Lists of training images whose labels are used when few may be."""

IMAGES_205 = 'data/vision/torralba/deeplearning/images256'

LISTED = dict(
    imagenet=ListedSet(
        splits=(
            Split('train', 'train', 1_281_167, 'meta/train.txt', from_folders),
            Split('val', 'val', 50_000, 'meta/val.txt', from_folders),
        ),
        num_classes=1000,
        download=DOWNLOADS['imagenet'],
        by_folder=True,
    ),
    places205=ListedSet(
        splits=tuple(
            Split(name, IMAGES_205, num, f'trainvalsplit_places205/{name}_places205.csv', not_made)
            for name, num in (('train', 2_448_873), ('val', 20_500))
        ),
        num_classes=205,
        download=DOWNLOADS['places205'],
    ),
    places365=ListedSet(
        splits=(
            Split('train', 'train', 1_803_460, 'meta/train.txt', from_folders),
            Split('val', 'val', 36_500, 'meta/val.txt', from_folders),
        ),
        num_classes=365,
        download=DOWNLOADS['places365'],
        by_folder=True,
    ),
    inat18=ListedSet(
        splits=(
            Split('train', 'train_val2018', 437_513, 'meta/train.txt', from_annotations),
            Split('val', 'train_val2018', 24_426, 'meta/val.txt', from_annotations),
        ),
        num_classes=8142,
        download=DOWNLOADS['inat18'],
    ),
)
"""The published sizes."""
