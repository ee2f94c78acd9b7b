"""The PASCAL VOC 2007 development kit: its layout, its labels, its images.

Everingham et al., The PASCAL Visual Object Classes Challenge 2007.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mmengine.dataset import BaseDataset

from mmcoke.messages import some

from .listing import read_lines

CLASSES = (
    'aeroplane',
    'bicycle',
    'bird',
    'boat',
    'bottle',
    'bus',
    'car',
    'cat',
    'chair',
    'cow',
    'diningtable',
    'dog',
    'horse',
    'motorbike',
    'person',
    'pottedplant',
    'sheep',
    'sofa',
    'train',
    'tvmonitor',
)
NUM_IMAGES = dict(trainval=5011, test=4952)
"""As published."""

ARCHIVES = dict(trainval='VOCtrainval_06-Nov-2007.tar', test='VOCtest_06-Nov-2007.tar')
SOURCE = 'http://host.robots.ox.ac.uk/pascal/VOC/voc2007/'
PRESENT, ABSENT, IGNORED = 1, 0, -1
"""Values of a target."""

TARGETS = {'1': PRESENT, '-1': ABSENT, '0': IGNORED}
"""By what the devkit's lists say; 0 there means that all objects of the class are difficult."""

RESIZE = (
    dict(type='torchvision/Resize', size=256),
    dict(type='torchvision/Resize', size=(224, 224)),
)
"""The shorter side to 256, then both to 224 without a crop: OpenMMLab's protocol, in which the
aspect changes."""


class Split(NamedTuple):
    """Images of one part of the devkit, in the order of its list."""

    paths: list[str]
    targets: np.ndarray
    """1 present, 0 absent, -1 ignored; int64 (images, 20), in the order of :data:`CLASSES`."""


class Images(BaseDataset):
    """Image files without labels.

    Args:
        paths: the files.
        pipeline: transforms, from a file to packed inputs.
    """

    def __init__(self, paths: Iterable[str], pipeline: list[dict]) -> None:
        self.paths = paths
        super().__init__(pipeline=pipeline)

    def load_data_list(self) -> list[dict]:
        """One record per file."""
        return [dict(img_path=path) for path in self.paths]


def read_devkit(root: str | Path, names: Iterable[str] = tuple(NUM_IMAGES)) -> dict[str, Split]:
    """Images and targets of parts of the devkit, by name; the layout is checked first.

    Args:
        root: the folder ``VOCdevkit/VOC2007``.
        names: ``'trainval'``, ``'test'`` or both.

    Raises:
        ValueError: if something is missing or wrong; says what, and how to get it.
    """
    root, problems, splits = Path(root), [], {}
    if not (root / 'ImageSets/Main').is_dir():
        nested = [path for path in (root / 'VOC2007', root / 'VOCdevkit/VOC2007') if path.is_dir()]
        remedy = f'Name {nested[0]}.' if nested else how_to_get(names)
        raise ValueError(f'{root} is no VOC2007: it has no folder ImageSets/Main. {remedy}')
    for name in names:
        found = split_problems(root, name)
        if found:
            problems += [*found, how_to_get([name])]
            continue
        splits[name] = read_split(root, name)
    if problems:
        raise ValueError('\n'.join([f'{root} is not complete:', *problems]))
    return splits


def read_split(root: Path, name: str) -> Split:
    """A part that has been checked."""
    ids = read_ids(root, name)
    columns = []
    for class_name in CLASSES:
        target_by_id = dict(read_words(class_list(root, class_name, name)))
        columns.append([TARGETS[target_by_id[image_id]] for image_id in ids])
    return Split([str(image_path(root, image_id)) for image_id in ids], np.array(columns).T)


def split_problems(root: Path, name: str) -> list[str]:
    """What is wrong with a part of the devkit, in sentences."""
    listing = root / f'ImageSets/Main/{name}.txt'
    if not listing.is_file():
        return [f'{listing} is missing.']
    ids = read_ids(root, name)
    if not ids:
        return [f'{listing} is empty.']
    lists = [class_list(root, class_name, name) for class_name in CLASSES]
    missing = [path for path in lists if not path.is_file()]
    problems = []
    if missing:
        names = some(path.name for path in missing)
        problems.append(f'{len(missing)} of 20 lists are missing in {listing.parent}: {names}.')
    problems += filter(None, (list_problem(path, ids) for path in lists if path.is_file()))
    absent = [image_id for image_id in ids if not image_path(root, image_id).is_file()]
    if absent:
        problems.append(
            f'{len(absent):,} of {len(ids):,} images of {name}.txt are missing in '
            f'{root / "JPEGImages"}: {some(f"{image_id}.jpg" for image_id in absent)}.'
        )
    return problems


def list_problem(path: Path, ids: list[str]) -> str | None:
    """What is wrong with the list of a class, if anything is."""
    lines = read_words(path)
    for number, line in enumerate(lines, 1):
        if len(line) != 2 or line[1] not in TARGETS:
            return (
                f'{path}, line {number}: expected an image and 1, -1 or 0, got {" ".join(line)!r}.'
            )
    listed = [image_id for image_id, _ in lines]
    if sorted(listed) != sorted(ids):
        return (
            f'{path} has not the images of the whole part: {len(listed):,} lines for '
            f'{len(ids):,} images; {some(sorted(set(ids) - set(listed)))} missing, '
            f'{some(sorted(set(listed) - set(ids)))} unknown.'
        )
    return None


def read_ids(root: Path, name: str) -> list[str]:
    """Images of a part, in the order of its list."""
    return [line[0] for line in read_words(root / f'ImageSets/Main/{name}.txt')]


def read_words(path: Path) -> list[list[str]]:
    """Words of each line that has some."""
    return [line.split() for line in read_lines(path)]


def class_list(root: Path, class_name: str, name: str) -> Path:
    return root / f'ImageSets/Main/{class_name}_{name}.txt'


def image_path(root: Path, image_id: str) -> Path:
    return root / f'JPEGImages/{image_id}.jpg'


def how_to_get(names: Iterable[str]) -> str:
    """Where parts of the devkit come from."""
    archives = ' and '.join(ARCHIVES[name] for name in names)
    return f'Get {archives} from {SOURCE} and unpack into one folder: they make VOCdevkit/VOC2007.'
