"""Which samples an epoch has, and on which process."""

from collections.abc import Iterator, Sized

import torch
from mmengine.dataset import DefaultSampler

from mmcoke.clustering import PseudoLabels
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


class DrawnSampler(TruncatedSampler):
    """A sampler that draws samples, some more than once, instead of shuffling them.

    An epoch has as many as the data set, cut to a multiple of the number of processes.

    Args:
        dataset: the data set.
        seed: of the draws, the same on all processes; the runner passes its own.
    """

    def __init__(self, dataset: Sized, seed: int | None = None) -> None:
        super().__init__(dataset, shuffle=True, seed=seed)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        drawn = self.draw(generator)[: self.total_size]
        return iter(drawn[self.rank :: self.world_size].tolist())

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        """At least as many indices as the data set has samples, in random order."""
        raise NotImplementedError


@DATA_SAMPLERS.register_module()
class ReplacementSampler(DrawnSampler):
    """Draws from all samples alike, with replacement, as ODC does."""

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        num_samples = len(self.dataset)
        return torch.randint(num_samples, (num_samples,), generator=generator)


@DATA_SAMPLERS.register_module()
class ClusterUniformSampler(DrawnSampler):
    """Draws from all clusters alike: equally many samples of each, as DeepCluster does.

    Of a cluster that is large enough no sample comes twice in an epoch. The labels are read when
    an epoch begins; ``DeepClusterHook`` sets ``labels`` to the table of the model.
    """

    labels: PseudoLabels | None = None

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        """See :class:`DrawnSampler`; ValueError if there are no labels."""
        if self.labels is None or not (size_K := self.labels.sizes().cpu()).any():
            raise ValueError(
                'ClusterUniformSampler has no labels to draw by: it is for DeepCluster, whose '
                'DeepClusterHook makes them. For other methods use TruncatedSampler.'
            )
        order = torch.randperm(len(self.dataset), generator=generator)
        order = order[self.labels.label.cpu()[order].argsort(stable=True)]  # cluster by cluster
        size_k = size_K[size_K > 0]
        first_k1 = (size_k.cumsum(0) - size_k)[:, None]
        share = -(-len(order) // len(size_k))  # samples per cluster
        place_km = torch.arange(share).expand(len(size_k), -1)
        random_km = torch.rand(place_km.shape, generator=generator)
        random_km = (random_km * size_k[:, None]).long()  # with replacement, where too few
        place_km = torch.where(size_k[:, None] >= share, place_km, random_km)
        drawn = order[(first_k1 + place_km).flatten()]
        return drawn[torch.randperm(len(drawn), generator=generator)]
