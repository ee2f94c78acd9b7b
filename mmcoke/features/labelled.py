"""Frozen features of labelled images: what kNN and clustering scores are computed from."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor
from torch.utils.data import Dataset

from .backbones import FrozenNetwork
from .extraction import check_same_classes
from .plain_images import config_images, folder_images
from .store import FEATURES, LABEL, extract_to_disk


class LabelledFeatures(NamedTuple):
    """Pooled features and classes of a data set, in its order.

    Attributes:
        x: float32 (A, D), memory-mapped.
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
            ``val_dataloader`` or, where there is none, the ``test_dataloader``.
        network: says in which order it expects the channels.
        split: ``train`` or ``val``.
        data_root: a folder with ``train`` and ``val``, each with a folder per class.
        size: side of the images.

    Raises:
        ValueError: if there are no such images.
    """
    if data_root is not None:
        return folder_images(network, Path(data_root) / split, size=size)
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
        y = torch.tensor(arrays.get(LABEL, np.full(len(dataset), -1)))
        if num_bad := int((y < 0).sum()):
            raise ValueError(
                f'{num_bad} of {len(y)} images for {name} have no label, or several. Give a folder '
                'per class, or a data set with one class per image.'
            )
        found[name] = LabelledFeatures(arrays['pooled'], y)
    return found
