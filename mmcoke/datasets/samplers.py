"""Which samples an epoch has, and on which process."""

from collections.abc import Iterator, Sized

import torch
from mmengine.dataset import DefaultSampler
from torch import Tensor

from mmcoke.clustering import PseudoLabels
from mmcoke.registry import DATA_SAMPLERS

CHUNK_SIZE = 1 << 14


@DATA_SAMPLERS.register_module()
class TruncatedSampler(DefaultSampler):
    """mmengine's DefaultSampler that leaves out a remainder instead of repeating samples.

    All processes get equally many samples and no sample twice in an epoch, so no label is written
    twice. With ``drop_last=True`` in the data loader every batch is then complete. What is left
    out (fewer samples than there are processes) differs from epoch to epoch. The order is
    mmengine's; it takes 4 bytes per sample while it is drawn, then those of the own part.

    Args:
        dataset: the data set.
        shuffle: draw a new order every epoch.
        seed: of the order, the same on all processes; the runner passes its own.
    """

    def __init__(self, dataset: Sized, shuffle: bool = True, seed: int | None = None) -> None:
        super().__init__(dataset, shuffle=shuffle, seed=seed, round_up=False)
        self.num_samples = len(dataset) // self.world_size
        self.total_size = self.num_samples * self.world_size

    def __iter__(self) -> Iterator[int]:
        if not self.shuffle:
            return iter(range(self.rank, self.total_size, self.world_size))
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return lazily(self.own_part(self.draw(generator)))

    def draw(self, generator: torch.Generator) -> Tensor:
        """As many indices as the data set has samples, in random order, integers (A,)."""
        return shuffled(len(self.dataset), generator)

    def own_part(self, drawn: Tensor) -> Tensor:
        """This process's part of a draw; a copy, so that the whole draw can be freed."""
        return drawn[: self.total_size][self.rank :: self.world_size].clone()


def shuffled(num_samples: int, generator: torch.Generator) -> Tensor:
    """A random order in the smallest integers; the same as in int64, which mmengine has."""
    dtype = torch.int32 if num_samples < 2**31 else torch.int64
    return torch.randperm(num_samples, generator=generator, dtype=dtype)


def lazily(indices: Tensor) -> Iterator[int]:
    """The numbers of a tensor, as Python objects only when they are due."""
    for chunk in indices.split(CHUNK_SIZE):
        yield from chunk.tolist()


class DrawnSampler(TruncatedSampler):
    """A sampler that draws samples, some more than once, instead of shuffling them.

    An epoch has as many as the data set, cut to a multiple of the number of processes.

    Args:
        dataset: the data set.
        seed: of the draws, the same on all processes; the runner passes its own.
    """

    def __init__(self, dataset: Sized, seed: int | None = None) -> None:
        super().__init__(dataset, shuffle=True, seed=seed)

    def draw(self, generator: torch.Generator) -> Tensor:
        """At least as many indices as the data set has samples, in random order."""
        raise NotImplementedError


@DATA_SAMPLERS.register_module()
class ReplacementSampler(DrawnSampler):
    """Draws from all samples alike, with replacement, as ODC does."""

    def draw(self, generator: torch.Generator) -> Tensor:
        num_samples = len(self.dataset)
        dtype = torch.int32 if num_samples < 2**31 else torch.int64
        return torch.randint(num_samples, (num_samples,), generator=generator, dtype=dtype)


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
        order = shuffled(len(self.dataset), generator)
        order = order[self.labels.label.cpu()[order].argsort(stable=True)]  # cluster by cluster
        order = order[len(order) - int(size_K.sum()) :]  # images without a label are in front
        clusters = order.split(size_K[size_K > 0].tolist())
        share = -(-len(self.dataset) // len(clusters))  # samples per cluster
        drawn = order.new_empty(len(clusters), share)
        for members, row in zip(clusters, drawn, strict=True):
            random = torch.rand(share, generator=generator)
            if len(members) < share:  # with replacement
                places = (random * len(members)).long().clamp_(max=len(members) - 1)
                torch.take(members, places, out=row)
            else:
                row.copy_(members[:share])
        return drawn.view(-1)[shuffled(drawn.numel(), generator)]
