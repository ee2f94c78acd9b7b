"""Data sets made of data sets."""

import copy
from collections.abc import Callable

from mmengine.dataset import ConcatDataset as _ConcatDataset
from torch.utils.data import Dataset

from mmcoke.registry import DATASETS


@DATASETS.register_module()
class ConcatDataset(_ConcatDataset):
    """mmengine's ConcatDataset with one ``sample_idx`` per sample, counted through all parts.

    mmengine leaves the index within the part there, so that samples would share labels.
    """

    def __getitem__(self, idx: int) -> dict:
        part, _ = self._get_ori_dataset_idx(idx)
        first = self.cumulative_sizes[part] - len(self.datasets[part])
        data = super().__getitem__(idx)
        sample = data['data_samples']
        sample.set_metainfo(dict(sample_idx=first + sample.sample_idx))
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
