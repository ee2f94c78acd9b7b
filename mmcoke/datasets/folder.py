"""Folders of images, with errors that help."""

import logging
from pathlib import Path

from mmcv.transforms import LoadImageFromFile as _LoadImageFromFile
from mmengine.logging import print_log
from mmpretrain.datasets import CustomDataset as _CustomDataset

from mmcoke.messages import describe
from mmcoke.registry import DATASETS, TRANSFORMS


@DATASETS.register_module()
class CustomDataset(_CustomDataset):
    """mmpretrain's CustomDataset that says what to do about a missing or empty folder.

    For unlabelled images: ``dict(type='CustomDataset', data_root='my/images', with_label=False)``.
    All arguments are mmpretrain's.

    Raises:
        ValueError: if the folder does not exist, or holds no image with a known extension.
    """

    def _find_samples(self) -> list:
        folder = self.img_prefix
        if '://' not in folder and not Path(folder).is_dir():
            raise ValueError(
                f'There is no image folder {folder!r}. Put the images there, or name the '
                'folder: --cfg-options train_dataloader.dataset.data_root=/path/to/images'
            )
        try:
            return super()._find_samples()
        except RuntimeError as error:
            raise ValueError(
                f'There is no image in {folder!r} or the folders below it. Files count that end '
                f'in {", ".join(sorted(self.extensions))}; other endings: set dataset.extensions.'
            ) from error


class UnreadableImageError(ValueError):
    """An image file that cannot be decoded.

    A data loader re-raises a worker's exception with the worker's whole traceback as its message;
    of that, only the last part is kept.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rsplit(f'{type(self).__name__}: ', 1)[-1].strip())


@TRANSFORMS.register_module()
class LoadImageFromFile(_LoadImageFromFile):
    """mmcv's LoadImageFromFile that names the file it cannot read, and the remedy.

    Args:
        ignore_empty: skip unreadable files with a warning (the data set draws another sample)
            instead of stopping. Other arguments are mmcv's.

    Raises:
        UnreadableImageError: if a file cannot be read or decoded, and ``ignore_empty`` is not set.
    """

    def transform(self, results: dict) -> dict | None:
        ignore_empty, self.ignore_empty = self.ignore_empty, False
        try:
            return super().transform(results)
        except Exception as error:
            message = f'Cannot read the image {results["img_path"]!r} ({describe(error)}).'
            if not ignore_empty:
                raise UnreadableImageError(
                    f'{message} Repair or remove this file, or set ignore_empty=True in '
                    'LoadImageFromFile of the train pipeline to skip such files; then resume.'
                ) from None
            print_log(f'{message} It is skipped.', logger='current', level=logging.WARNING)
            return None
        finally:
            self.ignore_empty = ignore_empty
