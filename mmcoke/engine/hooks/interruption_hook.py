"""Saves a run that is asked to stop, and now and then, and takes it up where it was."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmcoke.clustering.settings import check_number
from mmcoke.engine.checkpoint import WHOLE_FILES
from mmcoke.engine.interruption import Agreement, Interrupted, StopSignals, WorkerInit
from mmcoke.engine.loops import EpochLoop
from mmcoke.files import write_text
from mmcoke.registry import HOOKS

from .odc_hook import interrupted_name, saves_checkpoint

TIME_TO_SAVE = 1 << 10
"""What processes tell each other when it is time to save; larger than any signal."""


@HOOKS.register_module()
class InterruptionHook(Hook):
    """Saves a checkpoint between two iterations, after a signal to any process, and stops; saves
    one, and goes on, when the last one of the run is some minutes old.

    All processes stop after the same iteration, at most two after the signal, and with gradient
    accumulation after a step of the optimizer. The checkpoint, ``interrupted_epoch_E_iter_I.pth``
    in the work dir, is noted in ``last_checkpoint``; it goes when the next one is saved. Every
    checkpoint within an epoch, ``CheckpointHook(by_epoch=False)``'s as well, says where it lies,
    and :class:`EpochLoop` goes on from there. Saving changes nothing in the run.

    :func:`mmcoke.engine.launch.build_runner` registers it.

    Args:
        signals: what to listen to; None for nothing.
        save_minutes: how old the last checkpoint may get; 0 for no limit. Of the first process,
            whose clock counts. Not in runs that do not go by epochs.

    Raises:
        ValueError: if ``save_minutes`` is negative.
    """

    priority = 'LOWEST'

    def __init__(self, signals: StopSignals | None = None, save_minutes: float = 0) -> None:
        check_number('save_minutes', save_minutes, '[0, inf)')
        self._signals, self._reason = signals, 0
        self._interval = 60 * save_minutes or math.inf

    def before_train(self, runner: Runner) -> None:
        """From now on, a signal does not end the run at once."""
        self._agreement, self._saved = Agreement(), time.monotonic()
        if self._signals is not None:
            loader = runner.train_dataloader
            loader.worker_init_fn = WorkerInit(loader.worker_init_fn, self._signals.needs_workers)
            self._signals.training = True

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Raises Interrupted on all processes, once all is saved."""
        self._reason = self._reason or self._agreement.exchange(self._own_reason(runner))
        if not (self._reason and has_stepped(runner)):
            return
        name = interrupted_name(runner.epoch, batch_idx + 1)
        runner.call_hook('before_interruption', name=name)
        checkpoint = save(runner, name)
        self._agreement.meet()  # no process may end, and be seen to, while the first one writes
        if self._reason != TIME_TO_SAVE:
            raise Interrupted(self._reason, checkpoint)
        self._reason = 0

    def _own_reason(self, runner: Runner) -> int:
        """Why this process wants a checkpoint now: a signal, the time, or 0."""
        if self._signals is not None and self._signals.received:
            return self._signals.received
        late = is_main_process() and time.monotonic() - self._saved > self._interval
        return TIME_TO_SAVE if late and isinstance(runner.train_loop, EpochLoop) else 0

    def after_train_epoch(self, runner: Runner) -> None:
        """Runs after ``CheckpointHook``."""
        if is_main_process() and saves_checkpoint(runner):
            remove_interrupted(runner.work_dir)

    def after_train(self, runner: Runner) -> None:
        self._agreement.wait()

    @contextmanager
    def stopping_at_once(self) -> Iterator[None]:
        """Meanwhile a signal raises Interrupted, as before training: all is saved."""
        if self._signals is not None:
            self._signals.training = False
        try:
            yield
        finally:
            if self._signals is not None:
                self._signals.training = True

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        self._saved = time.monotonic()
        if isinstance(runner.train_loop, EpochLoop):
            checkpoint['meta']['place'] = runner.train_loop.place(checkpoint['meta'])

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        resumes = runner._resume and isinstance(runner._train_loop, EpochLoop)
        if resumes and (place := checkpoint['meta'].get('place')):
            runner.train_loop.take_up(place)


def has_stepped(runner: Runner) -> bool:
    """Whether no gradients wait for a later step of the optimizer."""
    wrapper = runner.optim_wrapper
    return not hasattr(wrapper, 'should_update') or wrapper.should_update()


def save(runner: Runner, name: str) -> Path:
    """Save a checkpoint within an epoch and note it; then remove older ones."""
    path = Path(runner.work_dir) / f'{name}.pth'
    runner.save_checkpoint(runner.work_dir, path.name, by_epoch=False, backend_args=WHOLE_FILES)
    if is_main_process():
        write_text(path.parent / 'last_checkpoint', str(path.resolve()))
        remove_interrupted(runner.work_dir, keep=path.name)
    return path


def remove_interrupted(work_dir: str, keep: str = '') -> None:
    """Remove the checkpoints of interruptions, but for one."""
    for path in Path(work_dir).glob('interrupted_epoch_*_iter_*.pth'):
        if path.name != keep:
            path.unlink()
