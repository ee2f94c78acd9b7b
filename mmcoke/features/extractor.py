"""Features of images, from a name of the model zoo or from a config and a checkpoint."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, default_collate
from mmengine.registry import DefaultScope
from PIL import Image
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mmcoke import zoo
from mmcoke.datasets import (
    CustomDataset,
    RandomResizedCrops,
    UnreadableImageError,
    read_image,
    reading,
)
from mmcoke.datasets.loading import reason_of, unreadable
from mmcoke.features.backbones import FrozenNetwork, load_frozen, read_config
from mmcoke.features.extraction import view_of
from mmcoke.features.plain_images import (
    center_crop,
    config_loader,
    feature_pipeline,
    num_channels,
)
from mmcoke.features.store import feature_of, full_precision, maps_of
from mmcoke.features.unreadable import Noted, Unreadable, check_readable, collate
from mmcoke.messages import shown

__all__ = ['FeatureExtractor', 'FolderFeatures', 'image_files']

LAYOUT = 'uint8, RGB, (A, H, W, 3), or grey, (A, H, W), with values 0 ... 255'


class FolderFeatures(NamedTuple):
    """``features, paths = extractor('folder')``.

    Attributes:
        features: float32 (A, D).
        paths: of the images, in the same order.
    """

    features: np.ndarray | Tensor
    paths: list[Path]


class FeatureExtractor:
    """From images to features, by a frozen network.

        extractor = mmcoke.FeatureExtractor('coke_r50_8xb64_in1k')
        features, paths = extractor('my/photos')

    Features are those of ``tools/extract_features.py``. They are held in memory; for more images
    than that, or several processes, take the tool. Batch size and kind of input change them by no
    more than rounding.

    Args:
        model: name in the model zoo; or, with ``checkpoint``, a config: a file, a name such as
            ``mmpretrain::resnet/resnet50_8xb32_in1k.py``, or a loaded one.
        checkpoint: of mmcoke, mmpretrain, mmselfsup or torchvision's names.
        size: side of the images: the shorter side is resized to 8/7 of it, then the middle is
            cropped. None: 224; or, where the config's data set is in memory, as for the digits, the
            config's own pipeline of the test.
        device: of the network; None for a GPU if there is one.
        batch_size: images at a time.
        num_workers: processes that load images; 0 for this one.
        progress: whether to show a bar.

    Attributes:
        network: the :class:`~mmcoke.features.backbones.FrozenNetwork`; its ``origin`` says how
            many keys of the checkpoint matched.
        size: as given, or chosen; None for the config's own pipeline.
        unreadable: images of the last call that could not be read; each has ``row``, ``name`` and
            ``reason``.

    Raises:
        OSError: if a file cannot be opened, or not be downloaded.
        ValueError: if the model is of another kind or its name unknown, a config comes without a
            checkpoint, or the checkpoint has less than 90 % of the backbone's keys.
    """

    def __init__(
        self,
        model: str | Path | Config,
        checkpoint: str | Path | None = None,
        *,
        size: int | None = None,
        device: str | torch.device | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        progress: bool = True,
    ) -> None:
        config, checkpoint = locate(model, checkpoint)
        cfg = read_config(config)
        self.network = load_frozen(cfg, checkpoint)
        self.device = torch.device(device or ('cuda' if torch.cuda.is_available() else 'cpu'))
        self.network.to(self.device)
        self.cfg, self.grey = cfg, num_channels(self.network.backbone) == 1
        self.pipeline, self.size = own_pipeline(cfg) if size is None else None, None
        if self.pipeline is None:
            self.size = size or 224
            self.pipeline = crop_pipeline(self.network, self.size, self.grey)
        self.batch_size, self.num_workers, self.progress = batch_size, num_workers, progress
        self.unreadable: list[Unreadable] = []

    def __call__(
        self,
        images: Any,
        *,
        feature: str = 'pooled',
        tensors: bool = False,
        skip_unreadable: bool = False,
    ) -> np.ndarray | Tensor | FolderFeatures:
        """Features of images, in their order.

        Args:
            images: one of

                - a folder: all images in it and below it, sorted by name;
                - image files: a path, or a list of paths; read by the config's own transforms;
                - an array or tensor: uint8, RGB, (A, H, W, 3), or grey, (A, H, W);
                - a list of such images of any size, (H, W, 3) or (H, W), or of PIL images;
                - a ``DataLoader``, or any iterable of batches. A batch is a dict with ``inputs``
                  (n, C, H, W), 0 ... 255, as OpenMMLab's loaders make them, which is normalized
                  here; or floats (n, C, H, W), normalized already, alone or first in a tuple.
            feature: ``pooled``, the last feature map averaged over space; ``stage0`` ...
                ``stage4``, of a ResNet; ``projected``, the neck's output, L2-normalized; or some
                of them, each L2-normalized, beside each other: ``stage3+stage4``.
            tensors: return a tensor on the CPU instead of an array.
            skip_unreadable: whether images that cannot be read are left out: of a folder their
                paths are not returned; of a list their rows are NaN. ``unreadable`` tells them.

        Returns:
            float32 (A, D); for a folder :class:`FolderFeatures`.

        Raises:
            FileNotFoundError: if there is no such folder or file.
            UnreadableImageError: if images cannot be read, once all have been tried;
                ``unreadable`` tells them.
            ValueError: if there are no images, they are of another layout, the network lacks the
                feature, or a feature is not finite.
        """
        feature_of(feature)  # refused ahead of the images
        folder = isinstance(images, str | Path) and Path(images).is_dir()
        if folder:
            images = image_files(images)
        elif isinstance(images, str | Path):
            images = [existing(images)]
        x = self.extract(images, feature, skip_unreadable)
        if folder and self.unreadable:
            left_out = {note.row for note in self.unreadable}
            kept = [row for row in range(len(images)) if row not in left_out]
            x, images = x[kept], [images[row] for row in kept]
        x = x if tensors else x.numpy()
        return FolderFeatures(x, images) if folder else x

    @torch.no_grad()
    def extract(self, images: Any, feature: str, skip_unreadable: bool = False) -> Tensor:
        """One feature of images of any kind, float32 (A, D), on the CPU."""
        self.unreadable = []
        with full_precision():
            if are_images(images):
                x = self.extract_images(images, feature, skip_unreadable)
            else:
                batches = self.tracked(images)
                x = joined([self.extract_batch(batch, feature) for batch in batches])
        if not x[~x.isnan().all(1)].isfinite().all() or (x.isnan().any() and not self.unreadable):
            raise ValueError(
                f'{feature} is not finite. See whether the checkpoint is that of a run that '
                'diverged, and whether floats that were given are.'
            )
        return x

    def extract_images(self, images: Sequence, feature: str, skip_unreadable: bool) -> Tensor:
        """One feature of images; NaN for those that cannot be read (A, D)."""
        dataset = Images(images, self.pipeline, self.file_pipeline(images), grey=self.grey)
        loader = DataLoader(
            Noted(dataset, range(len(images))),
            self.batch_size,
            num_workers=self.num_workers,
            collate_fn=partial(collate, stack=stack),
        )
        rows, parts = [], []
        for found, batch, notes in self.tracked(loader):
            self.unreadable += notes
            # With one failed the others are only read, so that all that fail are named.
            if found and (skip_unreadable or not self.unreadable):
                rows += found
                parts.append(self.extract_batch(batch, feature))
        if not skip_unreadable or not parts:
            check_readable(self.unreadable, len(images), skip='skip_unreadable=True')
        found = joined(parts)
        x = found.new_full((len(images), found.shape[1]), torch.nan)
        x[rows] = found
        return x

    def file_pipeline(self, images: Sequence) -> Callable | None:
        """From the record of a file to packed inputs; None where the config reads no files."""
        if self.size is None:
            return None
        paths = [image for image in images[:3] if isinstance(image, str | Path)]
        own = config_loader(self.cfg, [dict(img_path=str(path)) for path in paths])
        return composed(feature_pipeline(self.network, center_crop(self.size), own))

    def tracked(self, batches: Iterable) -> Iterable:
        """Batches, under a bar if one is wanted."""
        return track(batches, 'Features') if self.progress else batches

    def extract_batch(self, batch: Any, feature: str) -> Tensor:
        """One feature of a batch (n, D)."""
        images = normalized(self.network, batch).to(self.device)
        return feature_of(feature)(maps_of(self.network, images), self.network).float().cpu()


def locate(model: str | Path | Config, checkpoint: str | Path | None) -> tuple:
    """Config and checkpoint of a model, downloaded if it is given by name."""
    if not isinstance(model, str | Path | Config):
        raise ValueError(
            f'The model must be a name in the model zoo, or a config with a checkpoint, but is '
            f'{model!r}.'
        )
    if checkpoint is not None:
        return model, checkpoint
    if isinstance(model, Config) or str(model).endswith('.py'):
        raise ValueError('A config needs a checkpoint: FeatureExtractor(config, checkpoint).')
    return zoo.show(model).config, zoo.download(model)


def existing(path: str | Path) -> str | Path:
    """A path, or an address that mmengine's backends open; FileNotFoundError if it is not there."""
    if '://' not in str(path) and not Path(path).exists():
        raise FileNotFoundError(f'There is no folder or image file {shown(path)}.')
    return path


def image_files(folder: str | Path) -> list[Path]:
    """The images in a folder and below it, in the order of their names.

    Raises:
        ValueError: if there are none.
    """
    with DefaultScope.overwrite_default_scope('mmcoke'):
        dataset = CustomDataset(data_root=str(folder), with_label=False)
    return [Path(dataset.get_data_info(row)['img_path']) for row in range(len(dataset))]


# ---- images


class Images(Dataset):
    """Images of any kind that :class:`FeatureExtractor` takes, through a pipeline.

    Args:
        images: files, PIL images, arrays or tensors.
        pipeline: from a record with ``img``, uint8 (H, W, 3) in RGB or grey (H, W), to packed
            inputs.
        files: from a record with ``img_path`` to packed inputs; None for ``pipeline``.
        grey: whether the network takes one channel.
    """

    def __init__(
        self, images: Sequence, pipeline: Callable, files: Callable | None = None, *, grey: bool
    ) -> None:
        self.images, self.pipeline, self.files, self.grey = images, pipeline, files, grey

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> dict:
        image = self.images[row]
        is_file = isinstance(image, str | Path)
        if is_file and self.files is not None:
            return self.files(dict(img_path=str(image), sample_idx=row))
        try:
            image = with_channels(pixels_of(image), self.grey)
        except UnreadableImageError as error:
            raise unreadable(str(image) if is_file else f'image {row}', reason_of(error)) from None
        return self.pipeline(dict(img=image, img_shape=image.shape[:2], sample_idx=row))


def joined(parts: list[Tensor]) -> Tensor:
    """Features of batches as one tensor; ValueError if there are none."""
    if not parts:
        raise ValueError('There are no images.')
    return torch.cat(parts)


def are_images(images: Any) -> bool:
    """Whether something is a sequence of images, not of batches.

    Raises:
        ValueError: if it is an array of another layout.
    """
    if isinstance(images, np.ndarray | Tensor):
        check_layout(images)
        return True
    if not isinstance(images, list | tuple) or not images:
        return False
    first = images[0]
    is_array = isinstance(first, np.ndarray | Tensor)
    return isinstance(first, str | Path | Image.Image) or (is_array and first.ndim < 4)


def check_layout(images: np.ndarray | Tensor) -> None:
    """ValueError unless an array is one of images, as :data:`LAYOUT` says."""
    shape, is_uint8 = tuple(images.shape), images.dtype in (np.uint8, torch.uint8)
    # The second kind would be one image, taken for many that are three pixels wide.
    if not is_uint8 or not (shape[3:] == (3,) or (len(shape) == 3 and shape[2] != 3)):
        raise ValueError(
            f'Arrays of images must be {LAYOUT}, but this one is {images.dtype} {shape}. Of floats '
            'in 0 ... 1 take (255 * x).round(); put the channels last, by permute(0, 2, 3, 1) or '
            'transpose(0, 2, 3, 1); and one image into a list.'
        )


def pixels_of(image: Any) -> np.ndarray:
    """Pixels of an image of any kind, uint8 (H, W, 3) in RGB or (H, W); a copy."""
    if isinstance(image, str | Path):
        return read_file(image)
    if isinstance(image, Image.Image):
        return read_pillow(image)
    check_layout(image[None])
    return np.array(image.cpu().numpy() if isinstance(image, Tensor) else image)


def read_file(path: str | Path) -> np.ndarray:
    """Pixels of a file in RGB, uint8 (H, W, 3), as for training.

    Raises:
        UnreadableImageError: if it is not there or no image.
    """
    try:
        return cv2.cvtColor(read_image(path), cv2.COLOR_BGR2RGB)
    except UnreadableImageError as error:
        raise UnreadableImageError(
            f'{error} Repair or remove this file, or leave it out of the list.'
        ) from None


def read_pillow(image: Image.Image) -> np.ndarray:
    """Pixels of a Pillow image in RGB, uint8 (H, W, 3); those of its file.

    Raises:
        UnreadableImageError: if the file would be refused.
    """
    try:
        return np.array(reading.pixels_of(image))
    except Exception as error:
        raise UnreadableImageError(
            f'Cannot read a Pillow image ({reading.reason_of(error)}).'
        ) from None


def with_channels(image: np.ndarray, grey: bool) -> np.ndarray:
    """An image in RGB or grey, as the network takes it."""
    if grey == (image.ndim == 2):
        return image
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY if grey else cv2.COLOR_GRAY2RGB)


# ---- pipelines


def own_pipeline(cfg: Config) -> Callable | None:
    """A config's pipeline without augmentation for images in memory; None if it reads files."""
    for name in ('test_dataloader', 'train_dataloader'):
        pipeline = (cfg.get(name) or {}).get('dataset', {}).get('pipeline')
        if pipeline:
            first = str(pipeline[0]['type'])
            reads_files = 'Load' in first or RandomResizedCrops.__name__ in first
            return None if reads_files else composed(pipeline)
    return None


def crop_pipeline(network: FrozenNetwork, size: int, grey: bool) -> Callable:
    """As :func:`~mmcoke.features.plain_images.feature_pipeline`, of images in RGB or grey."""
    return composed(
        [
            dict(type='NumpyToPIL', to_rgb=False),
            *center_crop(size),
            dict(type='PILToNumpy', to_bgr=network.takes_bgr and not grey),
            dict(type='PackInputs'),
        ]
    )


def composed(pipeline: list[dict]) -> Callable:
    with DefaultScope.overwrite_default_scope('mmcoke'):
        return Compose(pipeline)


# ---- batches


def stack(samples: list[dict]) -> dict:
    """Collate packed images.

    Raises:
        ValueError: if they are not all of one size.
    """
    sizes = sorted({tuple(sample['inputs'].shape[1:]) for sample in samples})
    if len(sizes) > 1:
        raise ValueError(
            f'The images are of several sizes ({sizes[0]}, {sizes[-1]}), and the pipeline of the '
            'config leaves them so. Give FeatureExtractor the size they are to have.'
        )
    return default_collate(samples)


def normalized(network: FrozenNetwork, batch: Any) -> Tensor:
    """The images of a batch, normalized (n, C, H, W); see :meth:`FeatureExtractor.__call__`.

    Raises:
        ValueError: if the batch is of another kind.
    """
    images = batch[0] if isinstance(batch, list | tuple) and batch else batch
    if isinstance(images, dict) and 'inputs' in images:
        inputs = images['inputs']
        if isinstance(inputs, list) and all(x.ndim == 3 for x in inputs):
            inputs = torch.stack(inputs)  # mmengine's loaders leave them apart
        # Both, in this order, is what mmpretrain's preprocessor unpacks.
        samples = images.get('data_samples')
        images = view_of(network, dict(inputs=inputs, data_samples=samples))
    if isinstance(images, Tensor) and images.ndim == 4 and images.is_floating_point():
        return images
    found = f'{images.dtype} {tuple(images.shape)}' if isinstance(images, Tensor) else type(images)
    raise ValueError(
        'A batch must be a dict with inputs, or normalized floats (n, C, H, W), alone or first in '
        f'a tuple, but is {found}. Give images that are not normalized as an array or list of '
        f'{LAYOUT}.'
    )
