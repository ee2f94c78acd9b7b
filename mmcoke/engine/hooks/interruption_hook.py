"""Saves a run that is asked to stop, and takes it up where it was."""

from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmcoke.engine.checkpoint import WHOLE_FILES
from mmcoke.engine.interruption import Agreement, Interrupted, StopSignals, WorkerInit
from mmcoke.engine.loops import EpochLoop
from mmcoke.files import write_text
from mmcoke.registry import HOOKS

from .odc_hook import interrupted_name, saves_checkpoint


@HOOKS.register_module()
class InterruptionHook(Hook):
    """Saves a checkpoint between two iterations, after a signal to any process, and stops.

    All processes stop after the same iteration, at most two after the signal, and with gradient
    accumulation after a step of the optimizer. The checkpoint, ``interrupted_epoch_E_iter_I.pth``
    in the work dir, is noted in ``last_checkpoint``; it goes when the next one of an epoch is
    saved. Every checkpoint within an epoch, ``CheckpointHook(by_epoch=False)``'s as well, says
    where it lies, and :class:`EpochLoop` goes on from there.

    :func:`mmcoke.engine.launch.build_runner` registers it.

    Args:
        signals: what to listen to; None for nothing.
    """

    priority = 'LOWEST'

    def __init__(self, signals: StopSignals | None = None) -> None:
        self._signals, self._signum = signals, 0

    def before_train(self, runner: Runner) -> None:
        """From now on, a signal does not end the run at once."""
        self._agreement = Agreement()
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
        received = self._signals.received if self._signals is not None else 0
        self._signum = self._signum or self._agreement.exchange(received)
        if self._signum and has_stepped(runner):
            name = interrupted_name(runner.epoch, batch_idx + 1)
            runner.call_hook('before_interruption', name=name)
            checkpoint = save(runner, name)
            self._agreement.meet()  # no process may end, and be seen to, while the first one writes
            raise Interrupted(self._signum, checkpoint)

    def after_train_epoch(self, runner: Runner) -> None:
        """Runs after ``CheckpointHook``."""
        if is_main_process() and saves_checkpoint(runner):
            remove_interrupted(runner.work_dir)

    def after_train(self, runner: Runner) -> None:
        self._agreement.wait()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
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
