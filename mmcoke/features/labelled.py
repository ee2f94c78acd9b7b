"""Frozen features of labelled images: what kNN and clustering scores are computed from."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import print_log
from torch import Tensor
from torch.utils.data import Dataset

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
        split: ``train`` or ``val``.
        data_root: a folder with ``train`` and ``val``, each with a folder per class.
        size: side of the images.

    Raises:
        ValueError: if there are no such images.
    """
    if data_root is not None:
        return folder_images(network, Path(data_root) / split, size=size, cfg=cfg)
    if split == 'val' and not cfg.get('val_dataloader'):
        split = 'test'
    return config_images(cfg, network, split=split, size=size)


def labelled_features(
    network: FrozenNetwork, datasets: Mapping[str, Dataset], folder: str | Path, **options
) -> dict[str, LabelledFeatures]:
    """Extract the pooled features of some data sets into folders below one; all processes call it.

    Args:
        network: see :func:`~mmcoke.features.backbones.load_frozen`.
        datasets: by the names of their folders.
        folder: of these folders.
        **options: see :func:`~mmcoke.features.store.extract_to_disk`.

    Raises:
        ValueError: if an image has not exactly one class, the data sets have different classes, or
            as ``extract_to_disk``.
    """
    check_same_classes(*datasets.values())
    found = {}
    for name, dataset in datasets.items():
        pooled = {'pooled': FEATURES['pooled']}
        arrays = extract_to_disk(network, dataset, Path(folder) / name, pooled, **options)
        x, y = arrays['pooled'], torch.tensor(arrays.get(LABEL, np.full(len(dataset), -1)))
        if left_out := rows_left_out(Path(folder) / name):
            kept = np.setdiff1d(np.arange(len(y)), left_out)
            x, y = x[kept], y[kept]
            listing = Path(folder) / name / UNREADABLE
            print_log(
                f'{len(left_out):,} of {len(dataset):,} images for {name} cannot be read and are '
                f'left out: {listing}',
                logger='current',
                level=logging.WARNING,
            )
        if num_bad := int((y < 0).sum()):
            raise ValueError(
                f'{num_bad} of {len(y)} images for {name} have no label, or several. Give a folder '
                'per class, or a data set with one class per image.'
            )
        found[name] = LabelledFeatures(x, y)
    return found
