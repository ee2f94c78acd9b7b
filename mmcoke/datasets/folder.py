"""Folders of images, with errors that help."""

import logging
import os
import pickle
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache
from typing import Any

import cv2
import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile as _LoadImageFromFile
from mmengine import fileio
from mmengine.dist import is_main_process
from mmengine.logging import print_log
from mmpretrain.datasets import CustomDataset as _CustomDataset
from PIL import UnidentifiedImageError

from mmcoke.messages import shown
from mmcoke.registry import DATASETS, TRANSFORMS

from .listing import Listing, list_images, numbered_lines, split_label
from .reading import (
    EXTENSIONS,
    UnreadableImageError,
    check_size,
    content_of,
    opened,
    read_image,
)


@DATASETS.register_module()
class CustomDataset(_CustomDataset):
    """mmpretrain's CustomDataset with the files that all tools see; it says what to do about a
    missing or empty folder.

    For unlabelled images: ``dict(type='CustomDataset', data_root='my/images', with_label=False)``.
    Which files count says :func:`~mmcoke.datasets.listing.list_images`; a line in the log says what
    was passed over. The order is mmpretrain's; an empty folder is no class.

    Args:
        with_label: whether images have labels: their class folders, or those in ``ann_file``. None:
            if all have. In a list without labels, those that are there nevertheless are dropped.
        extensions: endings of the files that are images; those that can be decoded by default.
            Other arguments are mmpretrain's.

    Raises:
        ValueError: if the folder does not exist, holds no image, or none in a class folder where
            labels are asked for; if a line of ``ann_file`` lacks its label.
    """

    def __init__(self, *args, extensions=EXTENSIONS, **kwargs) -> None:
        super().__init__(*args, extensions=extensions, **kwargs)

    def full_init(self) -> None:
        """As mmengine's; unless a subclass makes the list, records are serialized one at a time."""
        is_own = all(
            getattr(type(self), name) is getattr(CustomDataset, name)
            for name in ('load_data_list', 'filter_data', '_serialize_data')
        )
        if is_own and self.serialize_data and self._indices is None and not self._fully_initialized:
            self.data_list = []
            self.data_bytes, self.data_address = serialized(self._records())
            self._fully_initialized = True
        super().full_init()

    def load_data_list(self) -> list[dict]:
        """One record per image."""
        return list(self._records())

    def _records(self) -> Iterator[dict]:
        samples = self._read_list() if self.ann_file else self._find_samples()
        # Known beforehand: to infer it takes longer than to join two names.
        backend = fileio.get_file_backend(self.img_prefix, enable_singleton=True)
        for name, label in samples:
            record = dict(img_path=backend.join_path(self.img_prefix, name))
            yield record if label is None else dict(record, gt_label=label)

    def _read_list(self) -> Iterator[tuple[str, int | None]]:
        """Images and labels of ``ann_file``."""
        if self.with_label is None:
            labels = (split_label(line)[1] for _, line in numbered_lines(self.ann_file))
            self.with_label = all(label is not None for label in labels)
        for number, line in numbered_lines(self.ann_file):
            name, label = split_label(line)
            if self.with_label and label is None:
                raise ValueError(
                    f"Line {number} of {self.ann_file} has no integer label: '{shown(line)}'. "
                    'Complete it, or set with_label=False.'
                )
            if self.with_label:
                yield name, label
            else:
                yield name if self.is_valid_file(name) else line, None

    def _find_samples(self) -> list[tuple[str, int | None]]:
        """Images and labels of the folder."""
        listing = self._list_folder()
        if self.with_label is None:
            self.with_label = listing.is_labelled
        if not self.with_label:
            say(listing.note())
            return [(name, None) for name in listing.images]
        if beside := len(listing.images) - len(listing.by_class):
            listing.passed_over['images', 'beside the class folders, so without a label'] += beside
        say(listing.note())
        self.folder_to_idx = {name: i for i, name in enumerate(self._class_folders(listing))}
        return [(name, self.folder_to_idx[name.split('/', 1)[0]]) for name in listing.by_class]

    def _list_folder(self) -> Listing:
        folder = self.img_prefix
        if '://' not in folder and not os.path.isdir(folder):
            raise ValueError(
                f'There is no image folder {folder!r}. Put the images there, or name the '
                'folder: --cfg-options train_dataloader.dataset.data_root=/path/to/images'
            )
        listing = list_images(folder, self.extensions)
        if not listing.images:
            raise ValueError(
                f'There is no image in {folder!r} or the folders below it. Files count that end '
                f'in {", ".join(sorted(self.extensions))}; other endings: set dataset.extensions. '
                f'{listing.note()}'.rstrip()
            )
        if self.with_label and not listing.classes:
            raise ValueError(
                f'No image in {folder!r} lies in a class folder. Sort them into a folder per '
                'class, or set with_label=False.'
            )
        return listing

    def _class_folders(self, listing: Listing) -> list[str]:
        """Classes in the order of their labels; those that the user has named may be empty."""
        if self.CLASSES is None:
            self._metainfo['classes'] = tuple(listing.classes)
            return listing.classes
        for classes in (listing.classes, sorted([*listing.classes, *listing.empty])):
            if len(classes) == len(self.CLASSES):
                return classes
        raise ValueError(
            f'metainfo names {len(self.CLASSES)} classes, but {self.img_prefix!r} has images in '
            f'{len(listing.classes)} folders. Correct metainfo, or leave it out.'
        )


def serialized(records: Iterable[dict]) -> tuple[np.ndarray, np.ndarray]:
    """Records as mmengine's data sets keep them: uint8 bytes, and int64 where each record ends.

    Made one at a time they take no more memory than that; as a list of dicts, five times as much.
    """
    content, ends = bytearray(), array('q')
    for record in records:
        content += pickle.dumps(record, protocol=4)
        ends.append(len(content))
    return np.frombuffer(content, np.uint8), np.frombuffer(ends, np.int64)


@cache
def say(line: str) -> None:
    """Log a line, once, on the main process."""
    if line and is_main_process():
        print_log(line, logger='current')


@TRANSFORMS.register_module()
class LoadImageFromFile(_LoadImageFromFile):
    """mmcv's LoadImageFromFile with the reader of all tools; it names the file it cannot read.

    By default, and for ``color_type='grayscale'``, an image is what
    :func:`~mmcoke.datasets.reading.read_image` makes of it. Another ``color_type`` or
    ``imdecode_backend`` is left to mmcv, such as ``'unchanged'`` for 16-bit values as they are.

    Args:
        ignore_empty: skip unreadable files with a warning (the data set draws another sample)
            instead of stopping. Other arguments are mmcv's.

    Raises:
        UnreadableImageError: if a file cannot be read or decoded, and ``ignore_empty`` is not set.
    """

    def transform(self, results: dict) -> dict | None:
        """Adds ``img``, ``img_shape`` and ``ori_shape``."""
        image = self.attempt(self.read, results['img_path'])
        if image is None:
            return None
        results['img'] = image.astype(np.float32) if self.to_float32 else image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    def attempt(self, read: Callable[[str], Any], path: str) -> Any:
        """What ``read`` makes of a file; None if it cannot be read and is to be skipped."""
        try:
            return read(path)
        except UnreadableImageError as error:
            if not self.ignore_empty:
                raise UnreadableImageError(
                    f'{error} Repair or remove this file, or leave such files out: '
                    f'--skip-unreadable, in a config ignore_empty=True in {type(self).__name__}. '
                    'tools/check_data.py folder FOLDER names all of them.'
                ) from None
            print_log(f'{error} It is skipped.', logger='current', level=logging.WARNING)
            return None

    def read(self, path: str) -> np.ndarray:
        """Pixels of a file: BGR or grey, or what mmcv makes of it where it was asked for."""
        if self.imdecode_backend != 'cv2' or self.color_type not in ('color', 'grayscale'):
            return read_image(path, get=self.get, decode=self.decode)
        image = read_image(path, get=self.get)
        return image if self.color_type == 'color' else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)

    def get(self, path: str) -> bytes:
        """Content of a file."""
        if self.file_client_args is not None:
            return fileio.FileClient.infer_client(self.file_client_args, path).get(path)
        return content_of(path, self.backend_args)

    def decode(self, content: bytes) -> np.ndarray:
        """Pixels as mmcv decodes them; of no more than the reader allows."""
        with suppress(UnidentifiedImageError), opened(content) as image:
            check_size(*image.size)
        flag, backend = self.color_type, self.imdecode_backend
        image = mmcv.imfrombytes(content, flag=flag, backend=backend)
        assert image is not None
        return image
