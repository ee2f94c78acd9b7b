"""What all operations share: how they are called, how often they apply, their settings."""

from typing import Any

import torch
from torch import Tensor, nn

from mmcoke.clustering.settings import check_number, is_number


class Operation(nn.Module):
    """Changes each image of a batch, as its own random numbers say.

    A pure function of fixed shapes that never waits for the device, so that a CUDA graph can hold
    it. It leaves its input as it is.

    Args:
        p: probability that an image is changed.

    Attributes:
        num_draws: random numbers that an image needs.
    """

    num_parameters = 0
    """Random numbers that :meth:`change` needs."""

    def __init__(self, p: float) -> None:
        super().__init__()
        check_number(f'p of {type(self).__name__}', p, '[0, 1]')
        self.p = p

    @property
    def num_draws(self) -> int:
        return 1 + self.num_parameters

    def forward(self, images: Tensor, u: Tensor) -> Tensor:
        """Images (n, C, h, w) with values in [0, 1], and ``u`` (n, num_draws) in [0, 1)."""
        changed = self.change(images, u[:, 1:])
        if self.p == 1:
            return changed
        # Exact at 0 and at 1; torch.where takes four times as long on CPU.
        chosen = per_image(u[:, 0] < self.p).to(images.dtype)
        return torch.lerp(images, changed, chosen, out=changed)

    def change(self, images: Tensor, u: Tensor) -> Tensor:
        """All images changed, as a new tensor; ``u`` is (n, num_parameters)."""
        raise NotImplementedError


def per_image(x: Tensor) -> Tensor:
    """(n,) as (n, 1, 1, 1)."""
    return x[:, None, None, None]


def between(u: Tensor, ends: tuple[float, float]) -> Tensor:
    """Numbers in [0, 1) as numbers between these two."""
    return u * (ends[1] - ends[0]) + ends[0]


def pair_of(name: str, value: Any, within: str) -> tuple[float, float]:
    """A setting that is two numbers in a range, such as ``'(0, 1]'``, the lesser one first."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ValueError(f'{name} must be two numbers (least, greatest), but is {value!r}.')
    for number in value:
        check_number(name, number, within)
    if value[0] > value[1]:
        raise ValueError(f'{name} must have the lesser number first, but is {value!r}.')
    return tuple(map(float, value))


def spread_of(name: str, value: Any, within: str, center: float = 0.0) -> tuple[float, float]:
    """As :func:`pair_of`; one number is the distance from the center, cut off at the range."""
    if not is_number(value):
        return pair_of(name, value, within)
    check_number(name, value, '[0, inf)')
    least = max(center - value, float(within[1:].split(',')[0]))
    return pair_of(name, (least, center + value), within)


def size_of(name: str, value: Any) -> tuple[int, int]:
    """A setting that is a height and a width, or one number for both."""
    pair = value if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2:
        raise ValueError(f'{name} must be a number or (height, width), but is {value!r}.')
    for number in pair:
        check_number(name, number, '[1, inf)', whole=True)
    return tuple(map(int, pair))
