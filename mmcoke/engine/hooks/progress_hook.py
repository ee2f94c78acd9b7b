"""A progress bar of a run, with what its clusters are like."""

import atexit
import time
from collections.abc import Iterable
from datetime import timedelta

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.console import Console, RenderableType
from rich.progress import Progress, TimeRemainingColumn

from mmcoke.engine.batch_size import batch_size
from mmcoke.registry import HOOKS

from .labeler_hook import EPOCH_NUMBERS

NUM_LINES = 10
"""Printed in a run where there is no terminal."""


class BarOverLine(Progress):
    """A bar, and below it a line that may be as wide as the terminal."""

    line = ''

    def get_renderables(self) -> Iterable[RenderableType]:
        """What is shown."""
        yield from super().get_renderables()
        yield self.line


@HOOKS.register_module()
class ProgressHook(Hook):
    """Shows epoch, loss, images per second, remaining time and the state of the clusters.

    The bar moves with each iteration; its numbers are those of the last epoch. Where there is no
    terminal, a line per tenth of the epochs. Of the clusters it shows, over all clusterings, the
    mean share of labels that changed and how many clusters are below the lower bound, if the method
    counts them.
    """

    priority = 'VERY_LOW'

    def before_train(self, runner: Runner) -> None:
        self._console = Console(quiet=not is_main_process())
        self._progress = BarOverLine(
            *Progress.get_default_columns()[:-1],
            TimeRemainingColumn(elapsed_when_finished=True),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task(
            'training', total=runner.max_iters, completed=runner.iter
        )
        self._progress.start()
        self._begin, self._first = time.monotonic(), runner.iter
        atexit.register(self._progress.stop)  # else an interrupted run leaves no cursor

    def before_train_epoch(self, runner: Runner) -> None:
        self._epoch_begin, self._epoch_first = time.monotonic(), runner.iter

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        self._progress.update(self._task, completed=runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        done, total = runner.epoch + 1, runner.max_epochs
        status = f'epoch {done}/{total}, {self._numbers(runner)}'
        self._progress.line = status
        if not self._console.is_terminal and self._is_due(done, total):
            self._console.print(f'training: {status}{self._left(runner)}', soft_wrap=True)

    def after_train(self, runner: Runner) -> None:
        self._progress.stop()

    def _numbers(self, runner: Runner) -> str:
        """Loss, speed and clusters of the epoch that ends."""
        loss = runner.message_hub.get_scalar('train/loss').mean(len(runner.train_dataloader))
        images = (runner.iter - self._epoch_first) * batch_size(runner).iteration
        speed = images / (time.monotonic() - self._epoch_begin)
        # None are left of an epoch that was resumed at its end.
        words = [f'loss {loss:.3f}', *([f'{speed:.0f} images/s'] if images else [])]
        found = runner.message_hub.runtime_info.get(EPOCH_NUMBERS, {}).values()
        return ', '.join([*words, *health(list(found))])

    @staticmethod
    def _is_due(done: int, total: int) -> bool:
        return done * NUM_LINES // total > (done - 1) * NUM_LINES // total

    def _left(self, runner: Runner) -> str:
        """Remaining time, by the mean iteration of this process."""
        left = runner.max_iters - runner.iter
        seconds = (time.monotonic() - self._begin) / max(runner.iter - self._first, 1) * left
        return f', {timedelta(seconds=round(seconds))} left' if left > 0 else ''


def health(clusterings: list[dict[str, float]]) -> list[str]:
    """What to say about clusterings.

    Args:
        clusterings: of each its numbers of the last epoch: ``changed``, a share of labels, and
            ``num_small``, clusters below the bound, if there are such.
    """
    changed = [numbers['changed'] for numbers in clusterings if 'changed' in numbers]
    small = [numbers['num_small'] for numbers in clusterings if 'num_small' in numbers]
    words = [f'relabelled: {100 * sum(changed) / len(changed):.0f} %'] if changed else []
    return words + ([f'small clusters: {sum(small):g}'] if small else [])
