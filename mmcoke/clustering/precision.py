"""Keep the clustering in float32, whatever precision the network trains in."""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize


def float32_no_grad(method: Callable) -> Callable:
    """Run a method of a module without gradients, outside autocast, on float32 features.

    Floating-point tensors among the arguments are cast to float32. In half precision the running
    mean of a large cluster stops moving and two ranks could round a similarity to other labels.
    """

    def cast(x: Any) -> Any:
        return x.float() if isinstance(x, Tensor) and x.is_floating_point() else x

    @functools.wraps(method)
    def wrapper(self, *args, **kwargs):
        tensors = (x for x in (*args, *kwargs.values()) if isinstance(x, Tensor))
        device_type = next((x.device.type for x in tensors), 'cpu')
        with torch.no_grad(), torch.autocast(device_type, enabled=False):
            return method(self, *map(cast, args), **{name: cast(x) for name, x in kwargs.items()})

    return wrapper


def power_of_two(largest: float) -> float:
    """A factor that brings numbers of this size near 1; multiplying by it does not round.

    Squares of float32 numbers overflow above 1e19 and vanish below 1e-19. 1 for the usual sizes,
    whose squares and sums of squares are far from either.
    """
    if largest == 0 or 2.0**-30 <= largest <= 2.0**40:
        return 1.0
    return 2.0 ** (1 - math.frexp(largest)[1])


def unit_rows(x_ND: Tensor) -> Tensor:
    """Rows divided by their length, float32 (N, D), whatever their size; rows of 0 stay."""
    if x_ND.dtype != torch.float64:
        x_ND = x_ND.float()
    if x_ND.device.type == 'cpu' and x_ND.numel():
        norm_N1 = torch.linalg.vector_norm(x_ND, dim=1, keepdim=True)
        low, high = norm_N1.aminmax()
        if low >= 2.0**-30 and high <= 2.0**40:  # what is below comes to the same, in more time
            return (x_ND / norm_N1).float()
    if x_ND.numel():
        # By powers of 2, so that rows of usual size come out as if they had not been scaled; in
        # two steps, because one factor could lie outside float32.
        _, exponent_N1 = torch.frexp(x_ND.abs().amax(1, keepdim=True))
        half_N1 = exponent_N1 // 2
        x_ND = torch.ldexp(torch.ldexp(x_ND, -half_N1), half_N1 - exponent_N1)
    return normalize(x_ND.float(), dim=1)
