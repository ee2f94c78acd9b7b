"""Stops a run whose processes disagree."""

import torch
from mmengine.dist import all_gather
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from mmcoke.engine.model_wrappers import unwrap
from mmcoke.registry import HOOKS

from .cluster_monitor_hook import labelers_of


@HOOKS.register_module()
class ReplicaCheckHook(Hook):
    """Compares a checksum of the clustering state across processes at the end of each epoch.

    The labelers must be bit-identical everywhere; nothing sends them around. Runs before the
    checkpoint of the epoch is saved. An algorithm from outside, without labelers, is let be.
    """

    priority = 'BELOW_NORMAL'

    def after_train_epoch(self, runner: Runner) -> None:
        """Raises RuntimeError, on every process, if the checksums differ."""
        if not labelers_of(runner):
            return
        sums = torch.stack(all_gather(state_checksum(unwrap(runner.model).labelers)))
        if (sums != sums[0]).any():
            others = (sums != sums[0]).nonzero().flatten().tolist()
            raise RuntimeError(
                f'The clustering state of process {others} differs from that of process 0 after '
                f'epoch {runner.epoch + 1}, so they would train towards different labels. Nothing '
                'of this epoch was saved. Resume from the last checkpoint; if it happens again, '
                'look for different software or hardware on the machines.'
            )


def state_checksum(module: nn.Module) -> Tensor:
    """Checksum of all saved buffers of a module, exact to the bit, an int64 scalar."""
    return sum(
        (number * 1_000_003 + 1) * checksum(buffer)
        for number, buffer in enumerate(module.state_dict().values())
    )


def checksum(x: Tensor, chunk_size: int = 1 << 22) -> Tensor:
    """Sum of the bits, as integers, weighted by position, modulo 2^64: an int64 scalar."""
    bits = x.flatten()
    if x.is_floating_point():
        bits = bits.view(torch.int32 if x.itemsize == 4 else torch.int64)
    weight = torch.arange(min(chunk_size, x.numel()), device=x.device) * 2 + 1
    total = torch.zeros((), dtype=torch.int64, device=x.device)
    for chunk in bits.split(chunk_size):
        total = total * 1_000_003 + (chunk.long() * weight[: len(chunk)]).sum()
    return total
