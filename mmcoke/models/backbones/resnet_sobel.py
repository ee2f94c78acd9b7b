"""A ResNet that sees edges instead of colours."""

import torch
from mmpretrain.models import ResNet
from torch import Tensor, nn
from torch.nn.functional import conv2d

from mmcoke.registry import MODELS


class FixedConv(nn.Module):
    """A convolution with given weights; as buffers, so that no initializer touches them.

    Args:
        weight: (out, in, k, k) with odd k; the output is as large as the input.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer('weight', weight)
        self.register_buffer('bias', torch.zeros(len(weight)))

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        # A checkpoint that keeps the filter elsewhere lacks nothing: it is always the same.
        for name, value in self.named_buffers():
            state_dict.setdefault(prefix + name, value)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(x, self.weight, self.bias, padding=self.weight.shape[-1] // 2)


class Sobel(nn.Module):
    """Images (n, 3, H, W) → horizontal and vertical differences of their mean (n, 2, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        horizontal = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])
        filters = torch.stack([horizontal, horizontal.T])[:, None]
        grey = torch.full((1, 3, 1, 1), 1 / 3)
        self.sobel = nn.Sequential(FixedConv(grey), FixedConv(filters))

    def forward(self, x: Tensor) -> Tensor:
        return self.sobel(x)


@MODELS.register_module()
class ResNetSobel(ResNet):
    """mmpretrain's ResNet behind a Sobel filter, as in DeepCluster: colour is no shortcut then.

    Its keys are those of OpenMMLab's DeepCluster checkpoints.

    Args:
        **kwargs: see mmpretrain's ``ResNet``.
    """

    in_channels = 3

    def __init__(self, **kwargs) -> None:
        super().__init__(in_channels=2, **kwargs)
        self.sobel_layer = Sobel()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images (n, 3, H, W) → feature maps of the stages in ``out_indices``."""
        return super().forward(self.sobel_layer(x))
