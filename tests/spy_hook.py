"""A hook that notes the clustering state of every rank (for tests/test_distributed.py)."""

from pathlib import Path

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook

from mmcoke.engine.model_wrappers import unwrap
from mmcoke.registry import HOOKS


@HOOKS.register_module()
class SpyHook(Hook):
    """Saves, per rank, the state of the labelers at the start and after each epoch."""

    priority = 'LOWEST'

    def before_train(self, runner):
        self.save(runner, 'start')

    def after_train_epoch(self, runner):
        self.save(runner, f'epoch{runner.epoch}')

    def save(self, runner, when):
        state = unwrap(runner.model).labelers.state_dict()
        torch.save(state, Path(runner.work_dir) / f'rank{get_rank()}_{when}.pth')
