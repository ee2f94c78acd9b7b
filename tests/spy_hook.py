"""Hooks of tests whose training runs in other processes."""

import os
import re
import signal
from pathlib import Path

import torch
from mmengine.dist import all_gather, get_rank
from mmengine.hooks import Hook

from mmcoke.engine import KNNHook
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


@HOOKS.register_module()
class KillHook(Hook):
    """Ends the process after an iteration (from 0), as lost power would."""

    def __init__(self, iteration):
        self.iteration = iteration

    def after_train_iter(self, runner, *args, **kwargs):
        if runner.iter == self.iteration:
            os.kill(os.getpid(), signal.SIGKILL)


@HOOKS.register_module()
class SignalHook(Hook):
    """Sends a signal in an iteration, counted from 1 over all epochs.

    Args:
        iteration: which one.
        signum: the signal.
        to_script: from process 1 to the script that started torchrun; else to this process.
    """

    def __init__(self, iteration, signum, to_script=False):
        self.iteration, self.signum, self.to_script = iteration, signum, to_script

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter + 1 == self.iteration:
            if not self.to_script:
                os.kill(os.getpid(), self.signum)
            elif get_rank() == 1:
                torchrun = Path(f'/proc/{os.getppid()}/status').read_text()
                os.kill(int(re.search(r'PPid:\s+(\d+)', torchrun)[1]), self.signum)


@HOOKS.register_module()
class SpiedKNNHook(KNNHook):
    """Fails where a measurement changes the network, its mode or the random state of a rank."""

    def after_train_epoch(self, runner):
        before = self.state(runner)
        super().after_train_epoch(runner)
        pairs = zip(before, self.state(runner), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)
        buffers = unwrap(runner.model).backbone.named_buffers()
        average = next(buffer for name, buffer in buffers if name.endswith('running_mean'))
        assert not torch.equal(*all_gather(average))  # else nothing was at stake

    def state(self, runner):
        network = {**runner.model.state_dict(), 'random': torch.get_rng_state()}
        modes = [module.training for module in runner.model.modules()]
        return [*(x.clone() for x in network.values()), torch.tensor(modes)]
