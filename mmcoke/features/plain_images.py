"""Data sets whose images are only resized: what features for an evaluation are taken from."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from mmpretrain.datasets import MultiView, NumpyToPIL, PILToNumpy
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

from mmcoke.datasets import CustomDataset, RandomResizedCrops
from mmcoke.datasets.loading import (
    LIBRARIES,
    Loading,
    is_own_kind,
    is_random,
    loading_transforms,
    some_records,
    transforms_of,
)
from mmcoke.datasets.wrappers import with_pipelines
from mmcoke.messages import describe
from mmcoke.registry import DATASETS, TRANSFORMS

from .backbones import FrozenNetwork, scope_of


def feature_pipeline(
    network: FrozenNetwork, resize: Iterable[dict] | None = None, own: 'Loader | None' = None
) -> list[dict | Callable]:
    """A pipeline without augmentation, with the channels that a network expects, in their order.

    Args:
        network: see :func:`~mmcoke.features.backbones.load_frozen`.
        resize: transforms of a PIL image or a tensor (C, H, W) that bring all images to one size;
            None for :func:`center_crop`.
        own: how a config reads its images; None: files, as 8 bits in colour.

    Returns:
        Transforms, or their configs, from a record to packed inputs.
    """
    own = own or file_loader()
    return [
        Loading(own.transforms),
        ToResizable(num_channels(network.backbone), is_bgr=own.gives_bgr),
        *(center_crop() if resize is None else resize),
        ToArray(turn=own.turns(network)),
        dict(type='PackInputs'),
    ]


def center_crop(size: int = 224) -> list[dict]:
    """The usual resize of an evaluation: 256 for a crop of 224, and in proportion."""
    return [
        dict(type='torchvision/Resize', size=round(size * 256 / 224)),
        dict(type='torchvision/CenterCrop', size=size),
    ]


def folder_images(
    network: FrozenNetwork, root: str | Path, *, size: int = 224, cfg: Config | None = None
) -> Dataset:
    """The images below a folder, cropped; labelled if every one lies in a class folder.

    Args:
        network: see :func:`~mmcoke.features.backbones.load_frozen`.
        root: the folder.
        size: side of the images.
        cfg: whose loading transforms read the files (:func:`config_loader`); None for those of
            8-bit images in colour.

    Raises:
        ValueError: if there are none.
    """
    with DefaultScope.overwrite_default_scope('mmcoke'):
        dataset = CustomDataset(data_root=str(root), with_label=None, pipeline=[])
        own = config_loader(cfg, some_records(dataset)) if cfg is not None else None
        dataset.pipeline = Compose(feature_pipeline(network, center_crop(size), own))
    return dataset


def config_images(
    cfg: Config, network: FrozenNetwork, *, split: str = 'train', size: int = 224
) -> Dataset:
    """The data set of ``{split}_dataloader`` in a config, read as it says, without augmentation.

    Images are cropped, whatever the config's pipeline does after loading. Those that are in the
    records already go through the pipeline of the ``test_dataloader`` or, where there is none,
    their own, if that does not augment.

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
        return plain_images(DATASETS.build(loader.dataset), cfg, network, size=size)


def plain_images(
    dataset: Dataset, cfg: Config, network: FrozenNetwork, *, size: int = 224
) -> Dataset:
    """The same images in the same order, without augmentation: see :func:`config_images`.

    Args:
        dataset: built from the config.
        cfg, network, size: see there.
    """

    def pipeline(part: Dataset) -> Callable:
        in_memory = 'img' in part.get_data_info(0)
        if in_memory and cfg.get('test_dataloader'):
            return Compose(pipeline_config(cfg.test_dataloader.dataset))
        if in_memory and not is_random(part.pipeline, part.get_data_info(0)):
            return part.pipeline
        # A training set that leaves out what cannot be read has its loading ones in one.
        transforms = [
            inner
            for one in transforms_of(part)
            for inner in (one.transforms if isinstance(one, Loading) else [one])
        ]
        own = Loader(transforms, loading_transforms(transforms, some_records(part)))
        if not transforms and 'img_path' in part.get_data_info(0):
            own = file_loader()
        return Compose(feature_pipeline(network, center_crop(size), own))

    with DefaultScope.overwrite_default_scope('mmcoke'):
        return with_pipelines(dataset, pipeline)


# ---- how images are read


class Loader:
    """The loading transforms of a pipeline, and what is known about the order of channels.

    Args:
        pipeline: all transforms, built.
        transforms: those of them that load.
    """

    def __init__(self, pipeline: Sequence[Callable], transforms: Sequence[Callable]) -> None:
        self.transforms = list(transforms)
        rest = list(pipeline[len(self.transforms) :])
        self.turned_later = sum(map(num_turns, rest)) % 2 == 1
        self.turned_before = sum(map(num_turns, self.transforms)) % 2 == 1

    @property
    def is_plain(self) -> bool:
        """Whether files are read as B, G, R by OpenMMLab's own transform alone."""
        kinds = [type(transform) for transform in self.transforms]
        return bool(kinds) and all(
            issubclass(kind, LoadImageFromFile) and kind.__module__.split('.')[0] in LIBRARIES
            for kind in kinds
        )

    @property
    def gives_bgr(self) -> bool:
        """Whether three channels are B, G, R, as OpenCV's, which all loaders start from."""
        return not self.turned_before

    def turns(self, network: FrozenNetwork) -> bool:
        """Whether a network expects three channels in the other order.

        OpenMMLab's loader gives B, G, R. In which order one's own gives them nobody says, so they
        are turned if the config's pipeline turns them after loading, and then only.
        """
        return not network.takes_bgr if self.is_plain else self.turned_later


def num_turns(transform: Callable) -> int:
    """How often a transform, with those in it, turns R, G, B round; of several views the first."""
    if isinstance(transform, NumpyToPIL):
        return int(transform.to_rgb)
    if isinstance(transform, PILToNumpy):
        return int(transform.to_bgr)
    if isinstance(transform, RandomResizedCrops):
        return 1
    inner = getattr(transform, 'transforms', [])
    inner = inner[:1] if isinstance(transform, MultiView) else inner
    return sum(map(num_turns, inner)) if isinstance(inner, (list, tuple)) else 0


def file_loader() -> Loader:
    """Reads files as 8-bit B, G, R."""
    with DefaultScope.overwrite_default_scope('mmcoke'):
        transforms = [TRANSFORMS.build(dict(type='LoadImageFromFile'))]
    return Loader(transforms, transforms)


def config_loader(cfg: Config, records: Iterable[dict] = ()) -> Loader:
    """How the pipeline of a config's test, validation or training set (the first there is) reads.

    Where that reads nothing, because its images are in memory, :func:`file_loader`.

    Args:
        cfg: the config.
        records: of the files that are to be read.
    """
    for name in ('test', 'val', 'train'):
        pipeline = pipeline_config((cfg.get(f'{name}_dataloader') or {}).get('dataset') or {})
        if pipeline:
            transforms = built(pipeline, cfg)
            loading = loading_transforms(transforms, records)
            return Loader(transforms, loading) if loading else file_loader()
    return file_loader()


def built(pipeline: Iterable[dict | Callable], cfg: Config) -> list[Callable]:
    """Transforms of a pipeline; up to one that cannot be built, if it is sure not to load.

    Raises:
        ValueError: if another one cannot be built.
    """
    transforms = []
    for transform in pipeline:
        try:
            with DefaultScope.overwrite_default_scope('mmcoke'):
                transforms += Compose([transform]).transforms
        except Exception as error:
            kind = transform['type']
            kind = kind if inspect.isclass(kind) else TRANSFORMS.get(kind)
            is_class = inspect.isclass(kind)  # torchvision's are functions
            if kind is not None and not (is_class and is_own_kind(kind)):
                break  # an augmentation whose package is not installed
            try:
                with scope_of(cfg):
                    transforms += Compose([transform]).transforms
            except Exception:
                raise ValueError(
                    f'{transform["type"]} in the pipeline of {cfg.filename} cannot be built '
                    f'({describe(error)}). Install its package, or import the file that registers '
                    "it by custom_imports=dict(imports=['my_module']) in the config."
                ) from error
    return transforms


def pipeline_config(dataset: dict) -> list[dict]:
    """The pipeline in the config of a data set, or of the first one in its wrappers."""
    while not dataset.get('pipeline'):
        inner = dataset.get('dataset') or next(iter(dataset.get('datasets') or []), None)
        if inner is None:
            return []
        dataset = inner
    return dataset['pipeline']


def num_channels(backbone: nn.Module) -> int:
    """Channels of the images that a network takes."""
    if declared := getattr(type(backbone), 'in_channels', None):
        return declared
    convolutions = (m for m in backbone.modules() if isinstance(m, nn.Conv2d))
    return next((convolution.in_channels for convolution in convolutions), 3)


# ---- transforms


class ToResizable:
    """An image of any kind as torchvision resizes it, with the channels that a network takes.

    8-bit images of one or three channels become PIL images, with channels in the order they have;
    all others float32 tensors (C, H, W), with the values they have.

    Args:
        num_channels: of the network.
        is_bgr: whether three channels are B, G, R (else R, G, B), for their grey.

    Raises:
        ValueError: if an image has other channels, and is not to be made grey or coloured.
    """

    def __init__(self, num_channels: int, *, is_bgr: bool) -> None:
        self.num_channels, self.is_bgr = num_channels, is_bgr

    def __call__(self, record: dict) -> dict:
        image = as_array(record['img'])
        image = image if image.dtype == np.uint8 else image.astype(np.float32)
        image = self.with_channels(image, record)
        if image.dtype == np.uint8 and image.shape[2] in (1, 3):
            image = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
        else:
            image = np.ascontiguousarray(image.transpose(2, 0, 1))
            image = torch.from_numpy(image).float()
        return record | dict(img=image)

    def with_channels(self, image: np.ndarray, record: dict) -> np.ndarray:
        """The image (H, W, C) with the network's channels."""
        image = image[..., None] if image.ndim == 2 else image
        found = image.shape[2]
        if found == self.num_channels:
            return image
        if (found, self.num_channels) == (3, 1):
            is_bgr = self.is_bgr and not isinstance(record['img'], Image.Image)
            code = cv2.COLOR_BGR2GRAY if is_bgr else cv2.COLOR_RGB2GRAY
            return cv2.cvtColor(image, code)[..., None]
        if (found, self.num_channels) == (1, 3):
            return image.repeat(3, axis=2)
        name = record.get('img_path', record.get('sample_idx'))
        raise ValueError(
            f'The network takes images of {self.num_channels} channels, but the loading transforms '
            f'of the config give {found} for {str(name)!r}. Give the pipeline of the config the '
            "transforms that training read with, such as dict(type='LoadImageFromFile', "
            "color_type='unchanged')."
        )


def as_array(image: Any) -> np.ndarray:
    """Pixels (H, W) or (H, W, C) of an array, a PIL image, or a tensor (C, H, W)."""
    if isinstance(image, torch.Tensor):
        image = image.permute(1, 2, 0) if image.ndim == 3 else image
        return image.numpy()
    return np.asarray(image)


class ToArray:
    """An image from :class:`ToResizable` as an array (H, W, C).

    Args:
        turn: whether three channels come in the other order.
    """

    def __init__(self, *, turn: bool) -> None:
        self.turn = turn

    def __call__(self, record: dict) -> dict:
        image = as_array(record['img'])
        if self.turn and image.ndim == 3 and image.shape[2] == 3:
            image = image[..., ::-1]
        return record | dict(img=np.array(image, order='C'), img_shape=image.shape[:2])
