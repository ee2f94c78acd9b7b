"""Where an iteration of training spends its time."""

import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmcoke.models.algorithms import base

from .launch import build_runner
from .model_wrappers import unwrap

PARTS = (
    'data wait',
    'copy',
    'augment',
    'forward',
    'clustering',
    'loss',
    'backward',
    'optimizer',
    'communication',
    'hooks and rest',
)

ADVICE = {
    'data wait': 'more workers: train_dataloader.num_workers (up to the cores of the machine), '
    'persistent_workers=True; small images: InMemoryImages',
    'copy': 'train_dataloader.pin_memory=True with model.data_preprocessor.non_blocking=True; '
    "small images: device='auto' of InMemoryImages",
    'augment': 'fewer operations in model.data_preprocessor.views; on a GPU, '
    'train_cfg.type=CapturedTrainLoop',
    'forward': 'on a GPU gpu.bfloat16=True, gpu.channels_last=True, '
    'train_cfg.compile_network=True; for small networks train_cfg.type=CapturedTrainLoop; '
    'with several views model.joint_views=True (other statistics of BN)',
    'clustering': 'fewer or smaller clusterings (model.clustering.num_clusters), larger batches',
    'loss': 'fewer clusters in all (model.clustering.num_clusters); if memory is short, '
    'model.head.chunk_size',
    'optimizer': 'optim_wrapper.optimizer.type=SGD with fused=True, or LARS of this project',
    'communication': 'larger batches per process; a faster network between machines',
    'hooks and rest': 'default_hooks.logger.interval=100 or more; '
    'on a GPU train_cfg.type=CapturedTrainLoop',
}
ADVICE['backward'] = ADVICE['forward']
"""Settings that make a part shorter."""


class Finished(Exception):
    """All iterations that were asked for are done."""


class StepProfiler(Hook):
    """Times the parts of each iteration, and ends the run.

    The device is waited for at the border of each part, so the sum is more than an iteration takes
    otherwise; a part within another one counts for itself alone.

    Args:
        warmup: iterations that are not counted.
        num_iters: iterations that are.

    Attributes:
        seconds: of each counted iteration, by part.
    """

    priority = 'LOWEST'

    def __init__(self, warmup: int, num_iters: int) -> None:
        self.warmup, self.num_iters = warmup, num_iters
        self.seconds: list[dict[str, float]] = []
        self._now: dict[str, float] = defaultdict(float)
        self._open = ['hooks and rest']

    def before_train(self, runner: Runner) -> None:
        model, wrapper, loop = unwrap(runner.model), runner.optim_wrapper, runner.train_loop
        if hasattr(loop, 'loading'):
            loop.loading = lambda: self.part('data wait')
        places = [
            (model.data_preprocessor, 'forward', 'augment'),
            (model.data_preprocessor, 'cast_data', 'copy'),
            (model, 'project', 'forward'),
            (model.head, 'forward', 'forward'),
            (model.head, 'loss', 'loss'),
            (model.labelers, 'step', 'clustering'),
            (wrapper, 'backward', 'backward'),
            (wrapper, 'step', 'optimizer'),
            (base, 'all_gather', 'communication'),
        ]
        places += [(labeler, 'step', 'clustering') for labeler in model.labelers]
        self._patches = ExitStack()
        for owner, name, part in places:
            if hasattr(owner, name):
                timed = self._timed(getattr(owner, name), part)
                self._patches.enter_context(patch.object(owner, name, timed))
        self._since = self._clock()

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        self._switch(self._open[-1])
        if runner.iter + 1 > self.warmup:
            self.seconds.append(dict(self._now))
        self._now.clear()
        if len(self.seconds) == self.num_iters:
            self._patches.close()
            raise Finished

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what runs within as a part."""
        self._switch(self._open[-1])
        self._open.append(name)
        try:
            yield
        finally:
            self._switch(self._open.pop())

    def _timed(self, function: Callable, name: str) -> Callable:
        def timed(*args, **kwargs) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return timed

    def _switch(self, ended: str) -> None:
        now = self._clock()
        self._now[ended] += now - self._since
        self._since = now

    @staticmethod
    def _clock() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()


class StopWatch(Hook):
    """Times iterations as they are, and ends the run; arguments as for :class:`StepProfiler`.

    Attributes:
        seconds: per iteration.
    """

    priority = 'LOWEST'

    def __init__(self, warmup: int, num_iters: int) -> None:
        self.warmup, self.num_iters = warmup, num_iters
        self.seconds = float('nan')

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        done = runner.iter + 1 - self.warmup
        if done == 0:
            self._start = StepProfiler._clock()
        elif done == self.num_iters:
            self.seconds = (StepProfiler._clock() - self._start) / self.num_iters
            raise Finished


def profile(make_config: Callable[[], Config], warmup: int, num_iters: int) -> dict[str, Any]:
    """Train for some iterations, twice: plainly, part by part, and as the config says.

    Args:
        make_config: gives a config that nothing else uses.
        warmup: iterations that are not counted; at least 5 where steps are captured first.
        num_iters: iterations that are.

    Returns:
        ``parts``, milliseconds of each part (medians over iterations); ``iteration``, milliseconds
        of one without waiting between parts, by the ``loop`` of the config.
    """
    profiler, watch = StepProfiler(warmup, num_iters), StopWatch(max(warmup, 5), num_iters)
    run_until_finished(make_config(), profiler, loop='EpochLoop')
    loop = run_until_finished(make_config(), watch)
    medians = {
        name: statistics.median(seconds.get(name, 0.0) for seconds in profiler.seconds)
        for name in PARTS
    }
    parts = {name: 1000 * median for name, median in medians.items() if median}
    return dict(parts=parts, iteration=1000 * watch.seconds, loop=loop)


def run_until_finished(cfg: Config, hook: Hook, loop: str | None = None) -> str:
    """Train, in a folder that is removed, until a hook raises :class:`Finished`.

    Args:
        cfg: of the training; is changed.
        hook: see there.
        loop: another loop than the config's.

    Returns:
        The name of the loop.
    """
    cfg.log_level = 'ERROR'
    cfg.train_cfg.max_epochs = 1 << 20
    cfg.default_hooks.checkpoint.interval = 1 << 20
    if loop:
        cfg.train_cfg.pop('by_epoch', None)
        cfg.train_cfg.type = loop
    with tempfile.TemporaryDirectory() as work_dir:
        cfg.work_dir, cfg.experiment_name = work_dir, Path(work_dir).name
        runner = build_runner(cfg)
        runner.register_hook(hook)
        with suppress(Finished):
            runner.train()
        return type(runner.train_loop).__name__
