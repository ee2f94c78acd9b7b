"""A small network for small images."""

from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmcoke.registry import MODELS


@MODELS.register_module()
class PlainConvNet(BaseModule):
    """A plain stack of 3x3 convolutions with BN and ReLU, for images of a few dozen pixels.

    Args:
        in_channels: channels of the images.
        channels: width of each layer.
        pool_after: numbers of the layers, from 1, after which 2x2 averages halve the resolution.
        init_cfg: see mmengine's ``BaseModule``.
    """

    def __init__(
        self,
        in_channels: int = 1,
        channels: Sequence[int] = (32, 32, 64, 64, 128),
        pool_after: Sequence[int] = (1, 2, 4),
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        layers = []
        for number, width in enumerate(channels, start=1):
            layers += [
                nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            if number in pool_after:
                layers.append(nn.AvgPool2d(2))
            in_channels = width
        # Channels last: a quarter less time on CPU.
        self.layers = nn.Sequential(*layers).to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Images (n, C, H, W) → one feature map (n, channels[-1], h, w), in a tuple."""
        return (self.layers(x.contiguous(memory_format=torch.channels_last)),)
