"""Batches as tensors, not as lists of records."""

from collections.abc import Callable, Iterator, Sequence

import torch
from mmengine.dataset import default_collate
from mmengine.registry import FUNCTIONS as ROOT_FUNCTIONS
from mmengine.registry import Registry
from torch import Tensor

# mmengine looks for collate functions from its root, mmpretrain has no such registry: configs name
# ours with the scope, collate_fn=dict(type='mmcoke.unlabelled_batch').
FUNCTIONS = Registry('function', parent=ROOT_FUNCTIONS, scope='mmcoke')


class ImageBatch(Sequence):
    """Samples of a batch whose images are one tensor already; in a loop, the samples themselves.

    So any collate function takes it, and :func:`unlabelled_batch` has nothing to do.

    Args:
        images: uint8 (n, C, H, W).
        sample_idx: index of each image in the data set, int64 (n,), on the same device.
        sample: from a position 0 ... n - 1 to what the data set returns for it alone.
    """

    def __init__(self, images: Tensor, sample_idx: Tensor, sample: Callable[[int], dict]) -> None:
        self.images, self.sample_idx, self.sample = images, sample_idx, sample

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, position: int) -> dict:
        if not 0 <= position < len(self):
            raise IndexError(position)
        return self.sample(position)

    def __iter__(self) -> Iterator[dict]:
        return map(self.sample, range(len(self)))


@FUNCTIONS.register_module()
def unlabelled_batch(samples: Sequence[dict]) -> dict:
    """Images and their indices as tensors: all that pre-training takes. Labels stay behind.

    Args:
        samples: what the data set returns: ``inputs``, a tensor or a list of views, and
            ``data_samples``.

    Returns:
        ``inputs``, stacked, and ``sample_idx``, int64 (n,). Where data samples have no index,
        ``data_samples`` as they are.
    """
    if isinstance(samples, ImageBatch):
        return dict(inputs=samples.images, sample_idx=samples.sample_idx)
    indices = [getattr(sample.get('data_samples'), 'sample_idx', None) for sample in samples]
    if any(idx is None for idx in indices):
        return default_collate(samples)
    inputs = default_collate([sample['inputs'] for sample in samples])
    # Those of mmselfsup are wrapped.
    return dict(
        inputs=inputs, sample_idx=torch.tensor([int(getattr(i, 'value', i)) for i in indices])
    )
