"""Images that are arrays already."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.dataset import Compose
from mmpretrain.datasets import BaseDataset, PackInputs
from torch import Tensor
from torch.utils.data import Dataset, Subset, get_worker_info

from mmcoke.registry import DATASETS

from .batches import ImageBatch
from .loading import is_own, is_random


@DATASETS.register_module()
class InMemoryImages(BaseDataset):
    """A data set of arrays: handwritten digits that scikit-learn ships, or an ``.npz`` file.

    Args:
        source: ``'digits'`` (1,797 grey images of 8x8 pixels, 10 classes); the path of an ``.npz``
            file with ``x``, uint8 (n, H, W) or (n, H, W, 3) in RGB, and optionally ``y``, integer
            labels (n,); or the config of a data set that has its images as arrays in RGB, such as
            ``dict(type='CIFAR10', data_root='data/cifar10', split='train')``.
        split: ``'train'`` (70 %), ``'test'`` (30 %), or ``'all'``. The split is random with seed 0,
            stratified by ``y`` where there is one.
        device: where the images of whole batches lie, such as ``'cuda'``: they then do not travel;
            ``'auto'`` for a GPU where there is one. A loader without workers is needed
            (``num_workers=0``); wrappers of data sets load one by one and send them as usual.
        pipeline, metainfo, indices, test_mode: see mmengine's ``BaseDataset``. The pipeline gets
            ``img``, and ``gt_label`` where there is one.

    Loaders get whole batches (:class:`~mmcoke.datasets.batches.ImageBatch`): a pipeline that draws
    no random numbers and ends with ``PackInputs`` is applied once, to all images.

    Raises:
        ValueError: if the source is missing or does not hold such arrays, or if workers load what
            lies on a device.
    """

    def __init__(
        self, source: str | dict, split: str = 'all', *, device: str = 'cpu', **kwargs
    ) -> None:
        self.source, self.split = source, split
        if device == 'auto':
            device = 'cuda' if torch.cuda.is_available() else 'cpu'
        self.device = torch.device(device)
        self.images, self.labels = load_split(source, split)
        # The arrays are the data: nothing to serialize for the workers.
        super().__init__(ann_file='', serialize_data=False, **kwargs)

    def load_data_list(self) -> list[dict]:
        """One record per image."""
        records = [dict(img=image, img_shape=image.shape[:2]) for image in self.images]
        if self.labels is not None:
            for record, label in zip(records, self.labels.tolist(), strict=True):
                record['gt_label'] = label
        return records

    def get_data_info(self, idx: int) -> dict:
        """Record of one image, with ``sample_idx``; transforms may change its image, a copy."""
        record = self.data_list[idx]
        return dict(record, img=record['img'].copy(), sample_idx=idx % len(self))

    def __getitems__(self, indices: list[int]) -> Sequence[dict]:
        """A batch, for torch's loaders."""
        batch = self.batch(indices)
        return [self[idx] for idx in indices] if batch is None else batch

    def batch(self, indices: Sequence[int]) -> ImageBatch | None:
        """Images of some rows as one tensor; None if the pipeline goes image by image."""
        images = self._prepared()
        if images is None:
            return None
        idx_n = torch.tensor(indices, pin_memory=images.is_cuda) % len(self)
        idx_n = idx_n.to(images.device, non_blocking=True)
        return ImageBatch(images[idx_n], idx_n, lambda position: self[indices[position]])

    def _prepared(self) -> Tensor | None:
        """The images after the pipeline, uint8 (A, C, H, W); None if they differ every time."""
        pipeline = getattr(self.pipeline, 'pipeline', self.pipeline)  # of a seeded one
        if self._prepared_by is not pipeline:
            self._images, self._prepared_by = prepare(self, pipeline), pipeline
            if self._images is not None:
                self._refuse_workers()
                self._images = self._images.to(self.device)
        return self._images

    _prepared_by: object = None

    def _refuse_workers(self) -> None:
        if self.device.type != 'cpu' and get_worker_info() is not None:
            raise ValueError(
                f'Images on {self.device} cannot be loaded by worker processes. Set num_workers=0 '
                "in the loader, or device='cpu' in the data set."
            )


def whole_batch(dataset: Dataset, rows: Sequence[int]) -> ImageBatch | None:
    """Images of some rows as one tensor, if a data set, or what it is a part of, has such."""
    while type(dataset) is Subset:
        rows, dataset = [dataset.indices[row] for row in rows], dataset.dataset
    return dataset.batch(rows) if isinstance(dataset, InMemoryImages) else None


def prepare(dataset: BaseDataset, pipeline: Compose) -> Tensor | None:
    """All images of a data set after a pipeline that does the same to each, every time.

    Returns:
        uint8 (A, C, H, W); None if the pipeline draws random numbers, has transforms of one's own,
        does not end with ``PackInputs`` of ``img``, or if the images are of different sizes.
    """
    *transforms, last = getattr(pipeline, 'transforms', None) or [None]
    packs = type(last) is PackInputs and last.input_key == 'img'
    packs = packs and 'sample_idx' in last.meta_keys  # else the pipeline withholds it
    if not packs or any(map(is_own, transforms)):
        return None
    steady = Compose(transforms)
    if is_random(steady, dataset.get_data_info(0)):
        return None
    images = [steady(dataset.get_data_info(idx))['img'] for idx in range(len(dataset))]
    if len({(image.shape, image.dtype) for image in images}) > 1 or images[0].dtype != np.uint8:
        return None
    images = torch.from_numpy(np.stack(images))
    return images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()


def load_split(source: str | dict, split: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Images and labels of one split of a source; see :class:`InMemoryImages`."""
    if isinstance(source, dict):
        images, labels = load_dataset(source)
    else:
        images, labels = load_digits_arrays() if source == 'digits' else load_npz(source)
    if split == 'all':
        return images, labels
    if split not in ('train', 'test'):
        raise ValueError(f"split must be 'train', 'test' or 'all', but is {split!r}.")
    from sklearn.model_selection import train_test_split

    train, test = train_test_split(
        np.arange(len(images)), test_size=0.3, random_state=0, stratify=labels
    )
    rows = train if split == 'train' else test
    return images[rows], None if labels is None else labels[rows]


def load_digits_arrays() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits as uint8 images 0 ... 255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.rint(digits.images * (255 / 16)).astype(np.uint8), digits.target


def load_dataset(cfg: dict) -> tuple[np.ndarray, np.ndarray | None]:
    """Images and labels of a data set whose records hold arrays.

    Raises:
        ValueError: if they hold none, or arrays of different sizes.
    """
    dataset = DATASETS.build(dict(cfg, pipeline=[]))
    records = [dataset.get_data_info(i) for i in range(len(dataset))]
    shapes = {getattr(record.get('img'), 'shape', None) for record in records}
    if len(shapes) != 1 or None in shapes:
        raise ValueError(
            f'The images of {cfg["type"]} are files, or arrays of different sizes; InMemoryImages '
            'takes data sets such as CIFAR10. Use the data set itself.'
        )
    labels = [record.get('gt_label') for record in records]
    images = np.stack([record['img'] for record in records])
    return images, None if None in labels else np.asarray(labels, dtype=np.int64)


def load_npz(path: str) -> tuple[np.ndarray, np.ndarray | None]:
    """``x`` and, if there is one, ``y`` of an ``.npz`` file, checked."""
    if not Path(path).is_file():
        raise ValueError(
            f"There is no file {path!r}. source must be 'digits' or the path of an .npz file."
        )
    try:
        arrays = dict(np.lib.npyio.NpzFile(path, own_fid=False, allow_pickle=False))
    except Exception as error:  # damaged zips and arrays raise nearly anything
        raise ValueError(
            f'{path} is no .npz file, or damaged ({error}). Save it with np.savez(path, x=images).'
        ) from None
    if 'x' not in arrays:
        raise ValueError(
            f'{path} holds {sorted(arrays)}, but no x. Save it with np.savez(path, x=images).'
        )
    images, labels = arrays['x'], arrays.get('y')
    grey, colour = images.ndim == 3, images.ndim == 4 and images.shape[3] == 3
    if images.dtype != np.uint8 or not (grey or colour) or not images.size:
        raise ValueError(
            f'x in {path} must be uint8 (n, H, W) or (n, H, W, 3) with n > 0, '
            f'but is {images.dtype} {images.shape}.'
        )
    if labels is not None and (labels.shape != images.shape[:1] or labels.dtype.kind not in 'iu'):
        raise ValueError(
            f'y in {path} must be one integer per image ({len(images)},), '
            f'but is {labels.dtype} {labels.shape}.'
        )
    return images, labels
