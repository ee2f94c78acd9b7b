"""Frozen features of labelled images: what kNN and clustering scores are computed from."""

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import print_log
from torch import Tensor
from torch.utils.data import Dataset

from mmcoke.messages import shown, some

from .backbones import FrozenNetwork
from .extraction import check_same_classes
from .plain_images import config_images, folder_images
from .store import FEATURES, LABEL, extract_to_disk, rows_left_out
from .unreadable import UNREADABLE


class LabelledFeatures(NamedTuple):
    """Pooled features and classes of the images of a data set that can be read, in its order.

    Attributes:
        x: float32 (A, D), memory-mapped unless images were left out.
        y: int64 (A,).
    """

    x: np.ndarray
    y: Tensor


ALL = 'all'
"""The split of a folder of classes that has no ``train`` and ``val``."""


def has_splits(root: str | Path) -> bool:
    """Whether a folder of images is divided into ``train`` and ``val``; else it has classes.

    A class may be called ``train``: then there is no ``val``, but other classes are there.

    Raises:
        ValueError: if there is no such folder.
    """
    if not Path(root).is_dir():
        raise ValueError(f'There is no folder {shown(root)}. --data-root names labelled images.')
    folders = {path.name for path in Path(root).iterdir() if path.is_dir()}
    splits = folders & {'train', 'val'}
    return len(splits) == 2 or (bool(splits) and folders <= {'train', 'val', 'test'})


def split_images(
    cfg: Config,
    network: FrozenNetwork,
    split: str,
    *,
    data_root: str | Path | None = None,
    size: int = 224,
) -> Dataset:
    """Images for training or validation, resized and cropped.

    Args:
        cfg: whose data sets are taken without ``data_root``; for ``val`` that of the
            ``val_dataloader`` or, where there is none, the ``test_dataloader``. Its transforms load
            the images.
        network: says which channels it expects, in which order.
        split: ``train``, ``val``, or :data:`ALL` of a ``data_root`` without these.
        data_root: a folder with ``train`` and ``val``, each with a folder per class; or with a
            folder per class.
        size: side of the images.

    Raises:
        ValueError: if there are no such images.
    """
    if data_root is not None:
        root = Path(data_root) if split == ALL else Path(data_root) / split
        return folder_images(network, root, size=size, cfg=cfg)
    if split == 'val' and not cfg.get('val_dataloader'):
        split = 'test'
    return config_images(cfg, network, split=split, size=size)


def labelled_features(
    network: FrozenNetwork, datasets: Mapping[str, Dataset], folder: str | Path, **options
) -> dict[str, LabelledFeatures]:
    """Extract the pooled features of some data sets into folders below one; all processes call it.

    The class of an image in a data set without labels is the first folder below the data set's own;
    images beside these folders are left out, and a warning counts them.

    Args:
        network: see :func:`~mmcoke.features.backbones.load_frozen`.
        datasets: by the names of their folders.
        folder: of these folders.
        **options: see :func:`~mmcoke.features.store.extract_to_disk`.

    Raises:
        ValueError: if an image has several classes, or none has one, the data sets have different
            classes, or as ``extract_to_disk``.
    """
    check_same_classes(*datasets.values())
    stored = {}
    for name, dataset in datasets.items():
        pooled = {'pooled': FEATURES['pooled']}
        stored[name] = extract_to_disk(network, dataset, Path(folder) / name, pooled, **options)
    labels = {name: arrays.get(LABEL) for name, arrays in stored.items()}
    if missing := [name for name, y in labels.items() if y is None]:
        check_all_lack_labels(missing, labels)
        labels = classes_by_folder({name: first_folders(datasets[name]) for name in labels})
    found = {}
    for name, y in labels.items():
        kept = rows_kept(name, y, Path(folder) / name, by_folder=bool(missing))
        x, y = stored[name]['pooled'], torch.tensor(y)
        # Where all are kept, they stay on the disk.
        found[name] = LabelledFeatures(*((x, y) if len(kept) == len(y) else (x[kept], y[kept])))
    return found


def check_all_lack_labels(missing: Sequence[str], names: Collection[str]) -> None:
    """ValueError if some data sets have labels, which may be numbered otherwise than folders."""
    if len(missing) < len(names):
        raise ValueError(
            f'The images for {some(missing)} have no labels, those for the rest have. Give both '
            'labels, or both a folder per class (--data-root).'
        )


def rows_kept(name: str, y: np.ndarray, folder: Path, *, by_folder: bool) -> np.ndarray:
    """Rows of images that can be read and have a class; warnings count the others.

    Args:
        name: of the data set.
        y: classes (A,), -1 for none.
        folder: of its features.
        by_folder: whether images without a class lie beside the class folders, and may.

    Raises:
        ValueError: if images that must have a class have none, or several.
    """
    kept = np.setdiff1d(np.arange(len(y)), unreadable := rows_left_out(folder))
    if unreadable:
        listing = folder / UNREADABLE
        warn(f'{len(unreadable):,} of {len(y):,} images for {name} cannot be read', listing)
    num_bad = int((y[kept] < 0).sum())
    if num_bad and (num_bad == len(kept) or not by_folder):
        raise ValueError(
            f'{num_bad} of {len(kept)} images for {name} have no label, or several. Give a folder '
            'per class, or a data set with one class per image.'
        )
    if num_bad:
        warn(f'{num_bad:,} of {len(y):,} images for {name} lie in no class folder')
        kept = kept[y[kept] >= 0]
    return kept


def warn(what: str, listing: Path | None = None) -> None:
    """Say which images are left out, and where they are named."""
    where = f': {listing}' if listing else '.'
    print_log(f'{what} and are left out{where}', logger='current', level=logging.WARNING)


# ---- classes by folders


def first_folders(dataset: Dataset) -> list[str]:
    """The first folder of each image below the data set's own; '' for one that lies beside them."""
    root = getattr(dataset, 'img_prefix', '')
    records = map(dataset.get_data_info, range(len(dataset)))
    return [first_folder(record.get('img_path', ''), root) for record in records]


def first_folder(path: str, root: str) -> str:
    """The first folder on the way from ``root`` to a file; empty if there is none."""
    if not root or not Path(path).is_relative_to(root):
        return ''
    folder, *rest = Path(path).relative_to(root).parts
    return folder if rest else ''


def classes_by_folder(folders: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
    """Folders of images as classes, int64 (A,), numbered alike in all data sets; -1 for ''."""
    names = sorted({folder for found in folders.values() for folder in found} - {''})
    number = {'': -1} | {name: i for i, name in enumerate(names)}
    return {
        split: np.array([number[folder] for folder in found], np.int64)
        for split, found in folders.items()
    }
