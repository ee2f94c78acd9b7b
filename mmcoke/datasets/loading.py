"""How a pipeline reads images: its transforms ahead of augmentation, and what they cannot read."""

import copy
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import dropwhile, takewhile
from pathlib import Path

import numpy as np
import torch
from mmengine.dataset import Compose
from PIL import Image
from torch.utils.data import Dataset

from mmcoke.messages import describe

from .crops import RandomResizedCrops
from .reading import UnreadableImageError
from .seeded_pipeline import kept_random_state

LIBRARIES = {
    *('mmcoke', 'mmpretrain', 'mmcv', 'mmengine', 'mmselfsup', 'mmcls', 'mmdet', 'mmseg'),
    *('torchvision', 'kornia', 'albumentations'),
}
"""Whose transforms augment, resize and pack, but for those called ``Load...``."""

FORMATS = ('NumpyToPIL', 'PILToNumpy')
"""Transforms of libraries that may stand between two that load."""


def loading_transforms(transforms: Sequence[Callable], records: Iterable[dict] = ()) -> list:
    """The first transforms of a pipeline: those ahead of augmentation, resizing and packing.

    That is, up to the last one that is called ``Load...`` or comes from none of :data:`LIBRARIES`
    (decoders, scalings and loaders of one's own). Of the latter, one that draws random numbers or
    changes the size of an image, seen on the first record that can be read, augments, too.

    A first transform that reads and crops in one (:class:`~mmcoke.datasets.RandomResizedCrops`)
    stands for its ``loader``, which gives the whole image.

    Args:
        transforms: built, of a whole pipeline.
        records: of the data set, as it gives them to the pipeline.

    Returns:
        As many as there are transforms that load at the beginning of the pipeline.
    """
    head = transforms[0] if transforms else None
    # Of a training set that passes over what cannot be read.
    head = head.transforms[0] if isinstance(head, Loading) and head.transforms else head
    if isinstance(head, RandomResizedCrops):
        in_memory = any('img' in record for record in records)
        return [] if in_memory else [head.loader]
    first = list(takewhile(lambda x: is_own(x) or name_of(x) in FORMATS, transforms))
    while first and not is_own(first[-1]):
        first.pop()
    if all(name_of(transform).startswith('Load') for transform in first):
        return first
    for record in records:
        try:
            return first[: num_steady(first, record)]
        # Of a loader of one's own, anything; an image that can be read decides.
        except Exception:
            continue
    return first


def is_own(transform: Callable) -> bool:
    """Whether a transform loads, or is no library's."""
    return is_own_kind(type(transform))


def is_own_kind(kind: type) -> bool:
    """:func:`is_own` of a class."""
    return kind.__name__.startswith('Load') or kind.__module__.partition('.')[0] not in LIBRARIES


def name_of(transform: Callable) -> str:
    return type(transform).__name__


def num_steady(transforms: Sequence[Callable], record: dict) -> int:
    """How many of the first transforms draw no random number and keep the size of an image."""
    with kept_random_state():
        for done, transform in enumerate(transforms):
            state, size = random_state(), size_of(record)
            record = transform(record)
            if record is None:
                raise UnreadableImageError('nothing was read')
            changed = random_state() != state or size not in (None, size_of(record))
            if changed and not name_of(transform).startswith('Load'):
                return done
    return len(transforms)


def is_random(pipeline: Callable, record: dict) -> bool:
    """Whether a pipeline draws random numbers."""
    with kept_random_state():
        state = random_state()
        pipeline(record)
        return random_state() != state


def random_state() -> tuple:
    """State of the random numbers of torch (on CPU), numpy and Python, to be compared."""
    numpy_state = np.random.get_state()
    return (
        torch.get_rng_state().numpy().tobytes(),
        (numpy_state[1].tobytes(), *numpy_state[2:]),
        random.getstate(),
    )


def size_of(record: dict) -> tuple | None:
    """Height and width of the image in a record; None if there is none yet."""
    image = record.get('img')
    if isinstance(image, Image.Image):
        return image.size[::-1]
    return None if image is None else tuple(image.shape[:2])


class Loading:
    """Loading transforms in one, which end with an image or with an error that says why not.

    Args:
        transforms: built; without their ``ignore_empty``, which would hide the reason.

    Raises:
        UnreadableImageError: if one of them fails or gives nothing; ``name`` and ``reason`` are
            its attributes. No other image takes the place of one that cannot be read.
    """

    def __init__(self, transforms: Sequence[Callable]) -> None:
        self.transforms = []
        for transform in map(copy.copy, transforms):
            if hasattr(transform, 'ignore_empty'):
                transform.ignore_empty = False
            self.transforms.append(transform)

    def __call__(self, record: dict) -> dict:
        name, error = str(record.get('img_path', record.get('sample_idx'))), None
        try:
            for transform in self.transforms:
                record = transform(record)
                if record is None:
                    raise UnreadableImageError('nothing was read: see the log')
            return record
        # A loader of one's own fails in its own way.
        except Exception as caught:
            error = unreadable(name, reason_of(caught))
        raise error

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.transforms})'


def unreadable(name: str, reason: str) -> UnreadableImageError:
    """An error with the name of an image and the reason as attributes."""
    error = UnreadableImageError(f'Cannot read the image {name!r} ({reason}).')
    error.name, error.reason = name, reason
    return error


def reason_of(error: BaseException) -> str:
    """Why an image cannot be read, on one line."""
    # Our loader's own message names its remedies; the reason is in what it caught.
    while isinstance(error, UnreadableImageError):
        if reason := getattr(error, 'reason', ''):
            return reason
        if error.__context__ is None:
            return str(error)
        error = error.__context__
    text = ' '.join(describe(error).split())
    is_of_code = isinstance(error, (KeyError, TypeError, AttributeError, IndexError))
    return f'{type(error).__name__}: {text}' if is_of_code else text


# ---- of data sets


def transforms_of(dataset: Dataset) -> list[Callable]:
    """The transforms of a data set's own pipeline, whatever it is wrapped in."""
    *_, innermost = pipelines_of(dataset)
    return list(getattr(innermost, 'transforms', []))


def some_records(dataset: Dataset) -> Iterator[dict]:
    """A few records of a data set, as its pipeline gets them."""
    for row in sorted({0, len(dataset) // 2, len(dataset) - 1}):
        yield dataset.get_data_info(row)


def loading_of(dataset: Dataset) -> list[Callable]:
    """:func:`loading_transforms` of a data set's own pipeline."""
    return loading_transforms(transforms_of(dataset), some_records(dataset))


# ---- of training sets


class SkippingPipeline:
    """A pipeline that gives nothing for an image that cannot be read; a data set draws another.

    Args:
        pipeline: raises ``UnreadableImageError`` for such an image.
        listing: text file that gets a line for it, once.
    """

    def __init__(self, pipeline: Callable, listing: Path) -> None:
        self.pipeline, self.listing = pipeline, listing

    def __call__(self, record: dict) -> dict | None:
        try:
            return self.pipeline(record)
        except UnreadableImageError as error:
            name = getattr(error, 'name', record.get('img_path', record.get('sample_idx')))
            add_to_listing(self.listing, [(name, reason_of(error))])
            return None


def add_to_listing(path: Path, images: Iterable[tuple[str, str]]) -> None:
    """Add a line ``NAME<tab>REASON`` for images that have none yet; any process may at any time."""
    lines = [f'{name}\t{reason}\n'.encode('utf-8', 'surrogateescape') for name, reason in images]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('a+b') as file:
        file.seek(0)
        known = set(file.readlines())
        # In one piece, which none of another process can fall into.
        file.write(b''.join(line for line in lines if line not in known))


def skip_unreadable(dataset: Dataset, listing: Path) -> None:
    """Make every pipeline in a data set, or in the parts of one, a :class:`SkippingPipeline`.

    Args:
        dataset: draws another sample where its pipeline gives None, as mmengine's do.
        listing: see :class:`SkippingPipeline`.
    """
    for part in parts_of(dataset):
        transforms, num_loading = transforms_of(part), len(loading_of(part))
        loading, rest = Loading(transforms[:num_loading]), transforms[num_loading:]
        part.pipeline = SkippingPipeline(Compose([loading, *rest]), listing)


def skips_unreadable(dataset: Dataset) -> bool:
    """Whether a data set draws another sample for one that cannot be read."""
    return any(
        isinstance(pipeline, SkippingPipeline) or getattr(pipeline, 'ignore_empty', False)
        for part in parts_of(dataset)
        for pipeline in (*pipelines_of(part), *transforms_of(part))
    )


def parts_of(dataset: Dataset) -> Iterator[Dataset]:
    """The data sets with pipelines of their own in a data set and its wrappers."""
    if hasattr(dataset, 'datasets'):
        for part in dataset.datasets:
            yield from parts_of(part)
    elif hasattr(dataset, 'dataset'):
        yield from parts_of(dataset.dataset)
    elif hasattr(dataset, 'pipeline'):
        yield dataset


def pipelines_of(dataset: Dataset) -> Iterator[Callable]:
    """A data set's own pipeline, and what it wraps."""
    pipeline = dataset.pipeline
    while pipeline is not None:
        yield pipeline
        pipeline = getattr(pipeline, 'pipeline', None)


def plain_pipeline(dataset: Dataset, transforms: Sequence[Callable]) -> Compose:
    """A pipeline without augmentation that reads as a data set's own does.

    Args:
        dataset: whose own transforms load.
        transforms: the pipeline without augmentation, built; where it loads, the data set's take
            its place.
    """
    loading = loading_of(dataset)
    kinds = {type(inner) for step in loading for inner in getattr(step, 'transforms', [step])}
    rest = dropwhile(lambda x: name_of(x).startswith('Load') or type(x) in kinds, transforms)
    return Compose([Loading(loading), *rest])
