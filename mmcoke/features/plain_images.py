"""Data sets whose images are only resized: what features for an evaluation are taken from."""

from collections.abc import Iterable
from pathlib import Path

from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from torch.utils.data import Dataset

from mmcoke.datasets import CustomDataset
from mmcoke.datasets.wrappers import with_pipeline
from mmcoke.registry import DATASETS

from .backbones import FrozenNetwork


def feature_pipeline(network: FrozenNetwork, resize: Iterable[dict] | None = None) -> list[dict]:
    """A pipeline without augmentation, with the channels in the order that a network expects.

    Args:
        network: see :func:`~mmcoke.features.backbones.load_frozen`.
        resize: transforms of a PIL image that bring all images to one size; None for
            :func:`center_crop`.

    Returns:
        Configs of transforms, from a file to packed inputs.
    """
    return [
        dict(type='LoadImageFromFile'),
        dict(type='NumpyToPIL', to_rgb=True),
        *(center_crop() if resize is None else resize),
        dict(type='PILToNumpy', to_bgr=network.takes_bgr),
        dict(type='PackInputs'),
    ]


def center_crop(size: int = 224) -> list[dict]:
    """The usual resize of an evaluation: 256 for a crop of 224, and in proportion."""
    return [
        dict(type='torchvision/Resize', size=round(size * 256 / 224)),
        dict(type='torchvision/CenterCrop', size=size),
    ]


def folder_images(network: FrozenNetwork, root: str | Path, *, size: int = 224) -> Dataset:
    """The images below a folder, cropped; labelled if every one lies in a class folder.

    Raises:
        ValueError: if there are none.
    """
    pipeline = feature_pipeline(network, center_crop(size))
    with DefaultScope.overwrite_default_scope('mmcoke'):
        return CustomDataset(data_root=str(root), with_label=None, pipeline=pipeline)


def config_images(
    cfg: Config, network: FrozenNetwork, *, split: str = 'train', size: int = 224
) -> Dataset:
    """The data set of ``{split}_dataloader`` in a config, without its augmentation.

    Image files are cropped, whatever the config's pipeline; images in memory go through the
    pipeline of the ``test_dataloader``, or their own where there is none.

    Raises:
        ValueError: if the config has no such loader.
    """
    loader = cfg.get(f'{split}_dataloader')
    if not loader:
        found = [name for name in ('train', 'val', 'test') if cfg.get(f'{name}_dataloader')]
        raise ValueError(
            f'{cfg.filename} has no {split}_dataloader, but has those of: {", ".join(found)}. '
            'Choose one, or name a folder of images.'
        )
    with DefaultScope.overwrite_default_scope('mmcoke'):
        dataset = DATASETS.build(loader.dataset)
        if 'img_path' in dataset.get_data_info(0):
            pipeline = feature_pipeline(network, center_crop(size))
        elif cfg.get('test_dataloader'):
            pipeline = cfg.test_dataloader.dataset.pipeline
        else:
            return dataset
        return with_pipeline(dataset, Compose(pipeline))
