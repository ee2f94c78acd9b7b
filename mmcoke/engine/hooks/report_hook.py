"""Writes the page about a run when training ends."""

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from shlex import quote

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmcoke.engine.interruption import Interrupted
from mmcoke.engine.main_process import run_on_main
from mmcoke.messages import shown
from mmcoke.registry import HOOKS
from mmcoke.reporting.runs import REPORT

from .interruption_hook import InterruptionHook


@HOOKS.register_module()
class ReportHook(Hook):
    """Writes ``report.html`` to the work dir after the last checkpoint, as ``mmcoke report`` does,
    but without t-SNE and files of figures.

    In every recipe. Nothing about the page ends a training: an error is a warning with the command
    that writes the page, and Ctrl-C leaves the page out.

    Args:
        seconds: for looking at images, in the main process; drawing takes some more.
    """

    priority = 'LOWEST'

    def __init__(self, seconds: float = 10) -> None:
        self.seconds = seconds

    def after_train(self, runner: Runner) -> None:
        stopping = next((hook for hook in runner.hooks if isinstance(hook, InterruptionHook)), None)
        try:
            with stopping.stopping_at_once() if stopping else nullcontext():
                run_on_main(partial(self.write, runner))
        except Interrupted:
            warn(runner, 'Interrupted')
        except RuntimeError as error:  # where another process is gone, or was interrupted
            warn(runner, str(error))

    def write(self, runner: Runner) -> None:
        """In the main process."""
        # Here, because drawing takes half a second to import.
        from mmcoke.engine.run_report import write_run_report

        path = Path(runner.work_dir) / REPORT
        runner.logger.info(f'Writing {shown(path)}; Ctrl-C leaves it out.')
        options = dict(seconds=self.seconds, thorough=False)
        options |= dict(dataset=runner.train_dataloader.dataset)
        try:
            notes = write_run_report(path, [runner.work_dir], **options)
        except Exception as error:  # nothing about the page may cost a finished training
            warn(runner, ' '.join(str(error).split()) or type(error).__name__)
            return
        for note in notes:
            runner.logger.info(note)


def warn(runner: Runner, reason: str) -> None:
    """Say, in the main process, how the page is written by hand."""
    if is_main_process():
        runner.logger.warning(
            f'{REPORT} was not written ({shown(reason)}). To write it: mmcoke report '
            f'{quote(str(runner.work_dir))}'
        )
