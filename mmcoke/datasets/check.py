"""Whether a data set is there, complete and readable, and what to do if not.

The expected numbers are those of the data sets' own documentation: ImageNet (Russakovsky et al.,
IJCV 2015), Places205 (Zhou et al., NIPS 2014), the development kits of Places365 and VOC 2007, the
page of the iNaturalist 2018 competition, and CIFAR (Krizhevsky, 2009).
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import check_integrity

from mmcoke.engine.checkpoint import WholeFilesBackend
from mmcoke.evaluation import voc
from mmcoke.models.checkpoints import some

from .in_memory import load_npz
from .readable import find_unreadable

EXTENSIONS = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif')
"""Of the files that mmpretrain's data sets take for images, whatever their case."""

Lines = list[tuple[str, int]]
"""Content of a list file: images, as paths below the image folder, and their labels."""


class DataError(ValueError):
    """Something wrong with a data set.

    Args:
        what: is wrong, as a sentence.
        remedy: what the user should do.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f'{what} {remedy}')
        self.what, self.remedy = what, remedy


@dataclass
class Report:
    """What a check found.

    Attributes:
        name, root: of the data set.
        facts: what is there, and which files were written.
        problems: what is wrong. If there are none, the data set is complete.
        images: the files that can be decoded one by one.
    """

    name: str
    root: Path
    facts: list[str] = field(default_factory=list)
    problems: list[DataError] = field(default_factory=list)
    images: list[str] = field(default_factory=list)


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


def check_data(
    name: str,
    root: str | Path,
    *,
    decode: bool = True,
    num_workers: int = 0,
    notes: str | Path = 'work_dirs/check_data',
    progress: Callable[[Iterable], Iterable] = iter,
) -> Report:
    """Check a data set, and write the list files that are missing where it is complete.

    Args:
        name: one of :data:`CHECKS`.
        root: its folder.
        decode: whether to decode all images, too.
        num_workers: processes that decode; 0 for this one.
        notes: folder for ``NAME.json``, from which an interrupted call goes on to decode, and for
            ``NAME_unreadable.txt``, the images that cannot be decoded and why.
        progress: wraps the iterable of batches to decode, such as ``rich.progress.track``.

    Returns:
        Facts and problems.

    Raises:
        ValueError: if there is no check of this name.
    """
    if name not in CHECKS:
        raise ValueError(f'There is no check of {name!r}, only of {", ".join(CHECKS)}.')
    report = Report(name, Path(root))
    try:
        if not report.root.is_dir():
            raise DataError(f'There is no folder {root}.', DOWNLOADS.get(name, 'Check the path.'))
        CHECKS[name](report)
    except DataError as error:
        report.problems.append(error)
    if decode and report.images:
        check_readable(report, Path(notes), num_workers=num_workers, progress=progress)
    return report


def check_readable(report: Report, notes: Path, **options) -> None:
    """Decode the images of a report; see :func:`check_data`."""
    unreadable = find_unreadable(report.images, notes / f'{report.name}.json', **options)
    report.facts.append(f'{len(report.images) - len(unreadable):,} images can be decoded')
    listing = notes / f'{report.name}_unreadable.txt'
    listing.unlink(missing_ok=True)
    if unreadable:
        lines = [f'{path}: {reason}' for path, reason in unreadable.items()]
        WholeFilesBackend().put_text('\n'.join(lines) + '\n', listing)
        report.problems.append(
            DataError(
                f'{len(unreadable):,} images cannot be decoded: {some(lines)}.',
                f'Unpack or download them again; {listing} names all. To train without them, '
                'remove them and the list files in meta/, or set ignore_empty=True in '
                'LoadImageFromFile.',
            )
        )


# ---- data sets with list files


def check_listed(report: Report, spec: ListedSet) -> dict[str, Lines]:
    """Check all splits of a data set; returns the lines of those that are complete."""
    complete = {}
    for split in spec.splits:
        try:
            lines, is_new = read_or_make(report.root, split, spec)
            present = set(find_images(report.root / split.images))
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
                write_list(report, split.list_file, lines)
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
    for number, line in enumerate(path.read_text().splitlines(), 1):
        name, _, label = line.rstrip().rpartition(' ')
        if not (name and label.isdecimal()):
            raise DataError(
                f'Line {number} of {path} is not an image and a label: {line[:80]!r}.',
                'Remove the file, and this check makes it anew if it can.',
            )
        lines.append((name.rstrip(), int(label)))
    return lines


def write_list(report: Report, name: str, lines: Lines) -> None:
    """Write a list file whole; a folder that cannot be written to is a problem."""
    path = report.root / name
    try:
        content = ''.join(f'{image} {label}\n' for image, label in lines)
        WholeFilesBackend().put_text(content, path)
    except OSError as error:
        remedy = f'Make {path.parent} writable, or link the data into a folder that is.'
        report.problems.append(DataError(f'Cannot write {path} ({error.strerror}).', remedy))
    else:
        report.facts.append(f'wrote {path}')


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


# ---- how list files are made


def from_folders(root: Path, split: Split) -> Lines:
    """Each folder is a class; the order is that of mmpretrain's ``CustomDataset``."""
    folder = root / split.images
    classes = class_folders(folder)
    if not classes:
        raise DataError(
            f'{folder} has no class folders, so its {len(find_images(folder)):,} images have no '
            'labels.',
            f'Sort them into a folder per class, or write {root / split.list_file} with an image '
            "and its label per line. For ImageNet, torchvision.datasets.ImageNet(root, 'val') "
            'sorts ILSVRC2012_img_val.tar beside ILSVRC2012_devkit_t12.tar.gz.',
        )
    return [
        (f'{name}/{image}', label)
        for label, name in enumerate(classes)
        for image in find_images(folder / name)
    ]


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


# ---- VOC 2007


def check_voc07(report: Report) -> None:
    """The official development kit, named by its folder ``VOC2007`` or the one above."""
    found = [path for path in (report.root, report.root / 'VOC2007') if voc_lists(path).is_dir()]
    if not found:
        what = f'Neither {report.root} nor a folder VOC2007 in it has a folder ImageSets/Main.'
        raise DataError(what, voc.how_to_get(voc.NUM_IMAGES))
    for name, num_images in voc.NUM_IMAGES.items():
        report.problems += voc_problems(report, found[0], name, num_images)


def voc_lists(folder: Path) -> Path:
    """Where the lists of the devkit are."""
    return folder / 'ImageSets/Main'


def voc_problems(report: Report, folder: Path, name: str, num_images: int) -> Iterable[DataError]:
    """What is wrong with a part of the devkit; what is right goes to the report."""
    remedy = voc.how_to_get([name])
    if found := voc.split_problems(folder, name):
        yield from (DataError(what, remedy) for what in found)
        return
    paths, targets = voc.read_split(folder, name)
    report.images += paths
    num_labels = (targets == 1).sum()
    report.facts.append(
        f'{name}: {len(paths):,} images of {len(voc.CLASSES)} classes, {num_labels:,} labels'
    )
    if len(paths) != num_images:
        yield DataError(f'{name} has {len(paths):,} images instead of {num_images:,}.', remedy)
    annotations = {path.stem for path in (folder / 'Annotations').glob('*.xml')}
    if absent := [path.stem for path in map(Path, paths) if path.stem not in annotations]:
        yield DataError(
            f'{len(absent):,} images of {name} have no XML file in Annotations: {some(absent)}.',
            f'{remedy} Only detection needs them.',
        )


# ---- CIFAR


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


# ---- any folder of images


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


# ---- what can be checked

DOWNLOADS = dict(
    imagenet='Get ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from image-net.org; train/ '
    'and val/ have a folder per class (n01440764 ...).',
    voc07=voc.how_to_get(voc.NUM_IMAGES),
    places205='The official links are dead. From a copy, unpack imagesPlaces205_resize.tar.gz '
    '(data/vision/torralba/deeplearning/images256/) and trainvalsplit_places205.tar.gz into the '
    'folder; or use Places365: check it by the name places365, and take its configs.',
    places365='Unpack places365standard_easyformat.tar of places2.csail.mit.edu/download.html; the '
    'folder to name is its places365_standard, with train/ and val/.',
    inat18='Unpack train_val2018.tar.gz, train2018.json.tar.gz and val2018.json.tar.gz of '
    'github.com/visipedia/inat_comp (2018) into the folder.',
    cifar='Unpack cifar-10-python.tar.gz (or cifar-100-python.tar.gz) of '
    'www.cs.toronto.edu/~kriz/cifar.html into the folder; or write cifar10_train.npz and '
    'cifar10_test.npz with x (n, 32, 32, 3), y and classes.',
)
"""Where data sets come from, and what to unpack where."""

SUBSETS = ('meta/train_1percent.txt', 'meta/train_10percent.txt')
"""Lists of training images whose labels are used when few may be."""

CIFAR10_IMAGES = dict(train=50_000, test=10_000)

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


def check_named(report: Report) -> None:
    """A data set of :data:`LISTED`."""
    check_listed(report, LISTED[report.name])


CHECKS: dict[str, Callable[[Report], None]] = dict(
    imagenet=check_imagenet,
    voc07=check_voc07,
    places205=check_named,
    places365=check_named,
    inat18=check_named,
    cifar=check_cifar,
    folder=check_folder,
)
"""The check of each data set."""
