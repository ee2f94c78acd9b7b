"""Data sets made of data sets."""

import copy
from collections.abc import Callable

import numpy as np
from mmengine.dataset import BaseDataset, ClassBalancedDataset, RepeatDataset
from mmengine.dataset import ConcatDataset as _ConcatDataset
from mmpretrain.datasets import KFoldDataset
from torch.utils.data import Dataset

from mmcoke.registry import DATASETS


@DATASETS.register_module()
class ConcatDataset(_ConcatDataset):
    """mmengine's ConcatDataset with one ``sample_idx`` per image, counted through all parts.

    mmengine leaves the index within the part there, so that images would share labels.
    """

    def full_init(self) -> None:
        super().full_init()
        sizes = [len(without_repetition(part)) for part in self.datasets]
        self.first_rows = [0, *np.cumsum(sizes).tolist()]

    def get_data_info(self, idx: int) -> dict:
        """Record of one sample."""
        part, _ = self._get_ori_dataset_idx(idx)
        record = super().get_data_info(idx)
        return dict(record, sample_idx=self.first_rows[part] + record['sample_idx'])

    def __getitem__(self, idx: int) -> dict:
        data = super().__getitem__(idx)
        part, _ = self._get_ori_dataset_idx(idx)
        sample = data['data_samples']
        sample.set_metainfo(dict(sample_idx=self.first_rows[part] + sample.sample_idx))
        return data


def with_pipeline(dataset: Dataset, pipeline: Callable) -> Dataset:
    """The same images in the same order, through another pipeline; nothing is loaded again.

    Args:
        dataset: a data set, or a wrapper of some (with ``datasets`` or ``dataset``).
        pipeline: from a record to what the data set returns.

    Raises:
        ValueError: if the data set has no pipeline to replace.
    """
    return with_pipelines(dataset, lambda _: pipeline)


def with_pipelines(dataset: Dataset, make: Callable[[Dataset], Callable]) -> Dataset:
    """As :func:`with_pipeline`, with a pipeline that is made for each data set in the wrappers."""
    dataset = copy.copy(dataset)
    if hasattr(dataset, 'datasets'):
        dataset.datasets = [with_pipelines(part, make) for part in dataset.datasets]
    elif hasattr(dataset, 'dataset'):
        dataset.dataset = with_pipelines(dataset.dataset, make)
    elif hasattr(dataset, 'pipeline'):
        dataset.pipeline = make(dataset)
    else:
        raise ValueError(
            f'{type(dataset).__name__} has no pipeline. Features without augmentation need a data '
            "set that derives from mmengine's BaseDataset, or a wrapper of such."
        )
    return dataset


def parts_of(dataset: Dataset) -> list[Dataset]:
    """The data sets that a wrapper is made of; none of a data set that holds records itself."""
    if hasattr(dataset, 'datasets'):
        return list(dataset.datasets)
    return [dataset.dataset] if hasattr(dataset, 'dataset') else []


def without_repetition(dataset: Dataset) -> Dataset:
    """The images of a data set, each once, in the order of their ``sample_idx``."""
    if isinstance(dataset, (RepeatDataset, ClassBalancedDataset, KFoldDataset)):
        return without_repetition(dataset.dataset)
    if not isinstance(dataset, _ConcatDataset):
        return dataset
    once = copy.copy(dataset)
    once.datasets = [without_repetition(part) for part in dataset.datasets]
    once.cumulative_sizes = np.cumsum([len(part) for part in once.datasets]).tolist()
    return once


def sample_rows(dataset: Dataset) -> np.ndarray:
    """The ``sample_idx`` that each position of a data set gives, int64 (length,).

    Raises:
        ValueError: if images share a ``sample_idx``, or a wrapper does not say which it gives.
    """
    if isinstance(dataset, ConcatDataset):
        pairs = zip(dataset.first_rows, dataset.datasets, strict=False)
        return np.concatenate([first + sample_rows(part) for first, part in pairs])
    if isinstance(dataset, _ConcatDataset):
        raise ValueError(
            "mmengine's ConcatDataset gives samples of different parts the same sample_idx. "
            'Use dict(type="mmcoke.ConcatDataset", ...), which numbers them through.'
        )
    if isinstance(dataset, RepeatDataset):
        return np.tile(sample_rows(dataset.dataset), dataset.times)
    if isinstance(dataset, ClassBalancedDataset):
        return sample_rows(dataset.dataset)[dataset.repeat_indices]
    if isinstance(dataset, KFoldDataset):
        return sample_rows(dataset.dataset)
    return recorded_rows(dataset)


MANY = 1000
"""Records that are looked at, of a data set that numbers its samples itself."""


def recorded_rows(dataset: Dataset) -> np.ndarray:
    """The positions of a data set, which its records must have as ``sample_idx``."""
    rows = np.arange(len(dataset))
    own, wraps = getattr(type(dataset), 'get_data_info', None), bool(parts_of(dataset))
    if own is BaseDataset.get_data_info or (own is None and not wraps):
        return rows
    looked_at = rows if wraps else rows[:: max(1, len(rows) // MANY)]
    given = [own and dataset.get_data_info(int(i)).get('sample_idx') for i in looked_at]
    if given != looked_at.tolist():
        raise ValueError(
            f'{type(dataset).__name__} does not give each image its position as sample_idx, by '
            'which labels are found. For part of a data set use its argument indices; for several '
            'dict(type="mmcoke.ConcatDataset", ...); your own data set is best derived from '
            "mmengine's BaseDataset, with its get_data_info."
        )
    return rows
