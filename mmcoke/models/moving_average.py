"""A copy of a network that follows it slowly."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from mmcoke.clustering.settings import check_number


class MovingAverage(nn.Module):
    """An exponential moving average of a network's weights.

    mmengine's counts its steps on the host and looks at a tensor in each, so no CUDA graph could
    hold it; this one waits for nothing. Statistics of batch norm are the copy's own.

    Args:
        network: is copied.
        momentum: share of the average that a step keeps, in [0, 1).

    Raises:
        ValueError: if the momentum is out of its range.
    """

    num_steps: Tensor

    def __init__(self, network: nn.Module, momentum: float) -> None:
        super().__init__()
        check_number('momentum', momentum, '[0, 1)')
        self.momentum = momentum
        self.network = deepcopy(network).requires_grad_(False)
        self.register_buffer('num_steps', torch.zeros((), dtype=torch.int64))

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """What the averaged network makes of images."""
        return self.network(inputs)

    @torch.no_grad()
    def follow(self, network: nn.Module) -> None:
        """One step towards the network: ``average <- momentum average + (1 - momentum) network``.

        The first step takes its weights over: they are drawn or loaded after the copy was made.
        """
        weight = torch.where(self.num_steps > 0, 1 - self.momentum, 1.0)
        for average, new in zip(self.network.parameters(), network.parameters(), strict=True):
            average.lerp_(new, weight.to(average.dtype))
        self.num_steps += 1
