"""Which samples an epoch has, and on which process."""

from collections.abc import Sized

from mmengine.dataset import DefaultSampler

from mmcoke.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class TruncatedSampler(DefaultSampler):
    """mmengine's DefaultSampler that leaves out a remainder instead of repeating samples.

    All processes get equally many samples and no sample twice in an epoch, so no label is written
    twice. With ``drop_last=True`` in the data loader every batch is then complete. What is left
    out (fewer samples than there are processes) differs from epoch to epoch.

    Args:
        dataset: the data set.
        shuffle: draw a new order every epoch.
        seed: of the order, the same on all processes; the runner passes its own.
    """

    def __init__(self, dataset: Sized, shuffle: bool = True, seed: int | None = None) -> None:
        super().__init__(dataset, shuffle=shuffle, seed=seed, round_up=False)
        self.num_samples = len(dataset) // self.world_size
        self.total_size = self.num_samples * self.world_size
