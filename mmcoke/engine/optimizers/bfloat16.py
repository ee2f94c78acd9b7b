"""Mixed precision without a loss scale."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from torch import nn

from mmcoke.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Trains in bfloat16 where torch's autocast knows it to be safe.

    bfloat16 has the range of float32, so gradients need no scale, and no step waits to see whether
    one was too large (as ``AmpOptimWrapper`` does). Clustering and loss stay in float32.

    Args:
        see ``OptimWrapper``.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        device_type = next(model.parameters()).device.type
        # Without the cache of casted weights, which must not outlive a CUDA graph.
        with (
            super().optim_context(model),
            torch.autocast(device_type, torch.bfloat16, cache_enabled=False),
        ):
            yield
