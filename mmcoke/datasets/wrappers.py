"""Data sets made of data sets."""

from mmengine.dataset import ConcatDataset as _ConcatDataset

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
