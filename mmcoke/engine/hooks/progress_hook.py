"""A progress bar for short runs."""

import atexit

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeRemainingColumn

from mmcoke.registry import HOOKS


@HOOKS.register_module()
class ProgressHook(Hook):
    """Shows epochs, loss and remaining time; one line per tenth where there is no terminal."""

    priority = 'VERY_LOW'

    def before_train(self, runner: Runner) -> None:
        self._console = Console(quiet=not is_main_process())
        self._progress = Progress(
            *Progress.get_default_columns()[:-1],
            TimeRemainingColumn(),
            TextColumn('{task.fields[status]}'),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task(
            'training', total=runner.max_epochs, completed=runner.epoch, status=''
        )
        self._progress.start()
        atexit.register(self._progress.stop)  # else an interrupted run leaves no cursor

    def after_train_epoch(self, runner: Runner) -> None:
        done, total = runner.epoch + 1, runner.max_epochs
        loss = runner.message_hub.get_scalar('train/loss').mean(len(runner.train_dataloader))
        status = f'epoch {done}/{total}, loss {loss:.3f}'
        self._progress.update(self._task, completed=done, status=status)
        if not self._console.is_terminal and done * 10 // total > (done - 1) * 10 // total:
            self._console.print(f'training: {status}')

    def after_train(self, runner: Runner) -> None:
        self._progress.stop()
