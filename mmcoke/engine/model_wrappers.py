"""Distributed data parallel on machines without an accelerator."""

import logging

from mmengine.logging import print_log
from mmengine.model import MMDistributedDataParallel, is_model_wrapper, revert_sync_batchnorm
from torch import nn

from mmcoke.registry import MODEL_WRAPPERS

__all__ = ['CPUDistributedDataParallel', 'unwrap']


@MODEL_WRAPPERS.register_module()
class CPUDistributedDataParallel(MMDistributedDataParallel):
    """``MMDistributedDataParallel`` for processes on CPU, over gloo.

    torch's DDP takes no ``device_ids`` there, and its SyncBatchNorm runs on accelerators only: such
    layers become BatchNorm over each process's own batch, and a warning says so.

    Args:
        module: the model.
        device_ids: ignored; mmengine passes it.
        **kwargs: see torch's ``DistributedDataParallel``.
    """

    def __init__(self, module: nn.Module, device_ids: list | None = None, **kwargs) -> None:
        if any(isinstance(m, nn.SyncBatchNorm) for m in module.modules()):
            print_log(
                'SyncBatchNorm does not run on CPU: each process normalizes over its own batch.',
                logger='current',
                level=logging.WARNING,
            )
            module = revert_sync_batchnorm(module)
        super().__init__(module=module, device_ids=None, **kwargs)


def unwrap(model: nn.Module) -> nn.Module:
    """The model without the wrapper that distributed training puts around it."""
    return model.module if is_model_wrapper(model) else model
