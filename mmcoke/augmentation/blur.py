"""Gaussian blur."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mmcoke.clustering.settings import is_number

from .geometry import weighted
from .operation import Operation, between, pair_of

SMALLEST = -40.0
"""Logarithm of the least weight: products of two lesser ones are subnormal, and slow on CPU."""


class GaussianBlur(Operation):
    """Blur as in SimCLR and MoCo: sigma is uniform, the border is reflected.

    The whole Gaussian, not a window of it. With equal sigma, images of 32 px differ from those of
    torchvision's ``GaussianBlur`` (window 23) by at most 0.5 of 255; from those of PIL's filter of
    this radius (three box blurs; the edge repeated) by at most 28 and on average 0.8.

    Args:
        sigma: least and greatest standard deviation, in pixels; or one for all.
        p: probability.
    """

    num_parameters = 1

    def __init__(self, sigma: float | Sequence[float] = (0.1, 2.0), p: float = 1.0) -> None:
        super().__init__(p)
        pair = (sigma, sigma) if is_number(sigma) else sigma
        self.sigma = pair_of('sigma of GaussianBlur', pair, '(0, inf)')

    def change(self, images: Tensor, u: Tensor) -> Tensor:
        height, width = images.shape[2:]
        sigma = between(u[:, 0], self.sigma)
        columns = blur_weights(sigma, width)
        rows = columns if height == width else blur_weights(sigma, height)
        return weighted(images, rows, columns)


def blur_weights(sigma: Tensor, size: int) -> Tensor:
    """Weights (n, size, size) of a line's pixels, reflected at both ends, for each ``sigma`` (n,).

    Pixel j counts for pixel i at the distance j - i and, but for those at the ends, mirrored at
    both ends. All are entries of one short table, of which the matrices are views.
    """
    distance = torch.arange(2 * size - 1, device=sigma.device) / sigma[:, None]
    table = distance.square_().mul_(-0.5).clamp_(min=SMALLEST).exp_()
    both_sides = torch.cat([table[:, 1:size].flip(1), table[:, :size]], dim=1)
    weights = both_sides.unfold(1, size, 1).flip(1)
    weights[:, :, 1:].add_(table.unfold(1, size, 1)[:, :, 1:])
    weights[:, :, :-1].add_(table.flip(1).unfold(1, size, 1)[:, :, :-1])
    return weights.div_(weights.sum(2, keepdim=True))
