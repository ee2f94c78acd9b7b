"""Keep the clustering in float32, whatever precision the network trains in."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


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
