"""How many images the steps of training see, and the learning rate that follows from it."""

from typing import NamedTuple

import torch
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import nn

from .screen import quieten


class BatchSize(NamedTuple):
    """Images of an iteration and of an optimizer step."""

    per_process: int
    num_processes: int
    accumulation: int
    """Iterations per optimizer step (``accumulative_counts``)."""

    @property
    def iteration(self) -> int:
        """Images of one iteration on all processes: what a dual step sees."""
        return self.per_process * self.num_processes

    @property
    def optimizer_step(self) -> int:
        """Images whose gradients make one step of the optimizer."""
        return self.iteration * self.accumulation

    def __str__(self) -> str:
        accumulated = f', gradient accumulation {self.accumulation}'
        return f'{self.per_process} per process, {self.num_processes} process(es){accumulated}'


def batch_size(runner: Runner, optim_wrapper: OptimWrapper | None = None) -> BatchSize:
    """The batch sizes of a runner whose train loop is built.

    Args:
        runner: with the data loader.
        optim_wrapper: the runner's, unless it is given.
    """
    return BatchSize(
        runner.train_dataloader.batch_sampler.batch_size,
        runner.world_size,
        (optim_wrapper or runner.optim_wrapper)._accumulative_counts,
    )


class AccumulationAwareRunner(Runner):
    """mmengine's runner; ``auto_scale_lr`` counts the images of an optimizer step.

    mmengine counts those of one iteration, also where gradients are accumulated over several.
    On a GPU the network's weights lie in channels-last order, if ``gpu.channels_last`` is set. With
    ``quiet=True`` in the config, the log is in its file and not on the screen.
    """

    def build_logger(self, *args, **kwargs) -> MMLogger:
        """See mmengine's."""
        logger = super().build_logger(*args, **kwargs)
        if self.cfg.get('quiet'):
            quieten(logger)
        return logger

    def register_default_hooks(self, hooks: dict[str, Hook | dict | None] | None = None) -> None:
        """See mmengine's. None turns off each hook, not only those that mmengine knows."""
        hooks = {name: Hook() if hook is None else hook for name, hook in (hooks or {}).items()}
        super().register_default_hooks(hooks)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """See mmengine's. Before, because the buckets of gradients take the order over."""
        if self.cfg.get('gpu', {}).get('channels_last') and torch.cuda.is_available():
            model = model.to(memory_format=torch.channels_last)
        return super().wrap_model(model_wrapper_cfg, model)

    def scale_lr(self, optim_wrapper: OptimWrapper, auto_scale_lr: dict | None = None) -> None:
        """Scale the learning rate linearly from ``base_batch_size``, if ``enable`` is set.

        Raises:
            ValueError: if there is no ``base_batch_size``.
        """
        if not auto_scale_lr or not auto_scale_lr.get('enable', False):
            return
        if not auto_scale_lr.get('base_batch_size'):
            raise ValueError(
                'auto_scale_lr needs the batch size that the learning rate belongs to: set '
                'auto_scale_lr.base_batch_size in the config.'
            )
        images, base = batch_size(self, optim_wrapper), auto_scale_lr['base_batch_size']
        ratio = images.optimizer_step / base
        self.logger.info(
            f'Learning rate times {ratio:g}: it belongs to {base} images per optimizer step, which '
            f'has {images.optimizer_step} ({images}).'
        )
        for group in optim_wrapper.optimizer.param_groups:
            group['lr'] *= ratio
