"""Signals that ask a run to stop: saved at the next iteration, and told how to go on."""

import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.dist import get_world_size, is_main_process

from .processes import PATIENCE

__all__ = ['Agreement', 'Interrupted', 'StopSignals', 'way_on']

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
COMMAND = 'MMCOKE_COMMAND'
"""Environment variable with the command that was typed, if it was not Python's own."""

AFTER_TERM = 20
"""Seconds that a worker process of a data loader goes on after SIGTERM."""


class Interrupted(BaseException):
    """A run was asked to stop; not an Exception, as KeyboardInterrupt is none.

    Args:
        signum: the signal.
        checkpoint: what was saved because of it, if training had begun.
    """

    def __init__(self, signum: int, checkpoint: Path | None = None) -> None:
        super().__init__(signum, checkpoint)
        self.signum, self.checkpoint = signum, checkpoint


class StopSignals:
    """Catches SIGINT (Ctrl-C), SIGTERM, SIGHUP and SIGUSR1 meanwhile; a context manager.

    Before training begins, the first one raises :class:`Interrupted` in the main thread. Then it is
    only noted, for :class:`InterruptionHook` to save first. A second Ctrl-C ends the process at
    once, whatever it does: a thread listens, because Python's own handlers wait until a long call
    (k-means, another process) returns.

    Args:
        work_dir: where the run saves its checkpoints.
    """

    received: int = 0
    """The first signal."""

    def __init__(self, work_dir: str) -> None:
        self.work_dir, self.training, self.pid = work_dir, False, os.getpid()
        self.needs_workers = torch.ones((), dtype=torch.bool).share_memory_()

    def __enter__(self) -> 'StopSignals':
        if threading.current_thread() is not threading.main_thread():
            return self  # Python catches signals in the main thread only
        self._handlers = {signum: signal.signal(signum, self._handle) for signum in STOPPING}
        reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        self._wakeup = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=self._forget)
        threading.Thread(target=self._listen, args=[reading], daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.needs_workers.fill_(False)
        if hasattr(self, '_handlers'):
            signal.set_wakeup_fd(self._wakeup)
            self._wakeup = None
            for signum, handler in self._handlers.items():
                signal.signal(signum, handler)
            os.write(self._writing, bytes(1))  # ends the thread
            os.close(self._writing)

    def _handle(self, signum: int, frame: object) -> None:
        # Forked workers of data loaders have this handler, too: they go on until training stops.
        if os.getpid() == self.pid and not self.training:
            raise Interrupted(signum)

    def _forget(self) -> None:
        # A forked process has this pipe, too: its signals are not those of its parent.
        if self._wakeup is not None and threading.current_thread() is threading.main_thread():
            signal.set_wakeup_fd(-1)

    def _listen(self, reading: int) -> None:
        with open(reading, 'rb', buffering=0) as file:
            while signum := file.read(1)[0]:
                if signum in STOPPING:
                    self._note(signal.Signals(signum))

    def _note(self, signum: signal.Signals) -> None:
        # torchrun passes on a second Ctrl-C as SIGTERM.
        if self.received == signal.SIGINT and signum in (signal.SIGINT, signal.SIGTERM):
            say(f'Ended at once: nothing was saved now. {way_on(self.work_dir)}')
            os._exit(128 + signal.SIGINT)
        if not self.received:
            self.received = signum
            if self.training:
                at_once = ' Ctrl-C again ends without saving.' if signum == signal.SIGINT else ''
                say(f'{signum.name}: saving after this iteration.{at_once}')


class WorkerInit:
    """Initializes a worker of a data loader so that it outlives a SIGTERM sent to its group.

    torchrun and Slurm send it to all processes; the worker still has batches to deliver until
    the run is saved. It ends with its parent, or :data:`AFTER_TERM` seconds later.

    Args:
        init: the loader's own ``worker_init_fn``, or None.
        needed: bool scalar tensor in shared memory: whether there is still something to deliver.
    """

    def __init__(self, init: Callable[[int], None] | None, needed: torch.Tensor) -> None:
        self.init, self.needed = init, needed

    def __call__(self, worker_id: int) -> None:
        signal.signal(signal.SIGTERM, self._terminate)
        if self.init is not None:
            self.init(worker_id)

    def _terminate(self, signum: int, frame: object) -> None:
        if not self.needed:
            os._exit(0)
        signal.alarm(AFTER_TERM)


class Agreement:
    """Tells all processes, at the same iteration, that one of them was asked to stop.

    What a process says in one iteration is known in the next. The numbers go from host to host
    (gloo) while the devices work; nothing waits for a device. All processes must make it, and call
    :meth:`exchange`, in the same order.
    """

    def __init__(self) -> None:
        self._group = dist.new_group(backend='gloo', timeout=PATIENCE) if dist_on() else None
        self._sent = None

    def exchange(self, number: int) -> int:
        """The largest number of all processes in the last call; 0 in the first one."""
        if self._group is None:
            return number
        agreed = self.wait()
        if not agreed:
            self._number = torch.tensor(number)
            self._sent = dist.all_reduce(
                self._number, dist.ReduceOp.MAX, group=self._group, async_op=True
            )
        return agreed

    def wait(self) -> int:
        """The answer to the last call, which then is not awaited any more."""
        if self._sent is None:
            return 0
        self._sent.wait()
        self._sent = None
        return int(self._number)

    def meet(self) -> None:
        """Wait for all processes."""
        if self._group is not None:
            dist.barrier(group=self._group)


def dist_on() -> bool:
    return dist.is_initialized() and get_world_size() > 1


def say(text: str) -> None:
    """Tell the user, once for all processes."""
    if is_main_process():
        print(f'\n{text}', file=sys.stderr, flush=True)


def way_on(work_dir: str | Path) -> str:
    """What there is to go on from in a work dir, and the command that does so."""
    note = Path(work_dir) / 'last_checkpoint'
    noted = Path(work_dir) / Path(note.read_text().strip()).name if note.is_file() else None
    if noted is None or not noted.is_file():
        return f'There is no checkpoint in {work_dir}; start again:\n  {command(resume=False)}'
    return f'The last checkpoint is {noted}; go on with:\n  {command(resume=True)}'


def command(*, resume: bool) -> str:
    """The command that started this process, quoted for a shell, with or without ``--resume``."""
    words = without_resume(typed_words())
    return shlex.join([*words, '--resume'] if resume else words)


def typed_words() -> Sequence[str]:
    """What was typed: in a script, to torchrun, or to Python."""
    if COMMAND in os.environ:
        return shlex.split(os.environ[COMMAND])
    parent = Path(f'/proc/{os.getppid()}/cmdline')
    if 'TORCHELASTIC_RUN_ID' in os.environ and parent.is_file():
        return parent.read_text().rstrip('\0').split('\0')
    return sys.orig_argv


def without_resume(words: Sequence[str]) -> list[str]:
    """A command line without ``--resume``, ``--resume=X``, ``--resume X`` and shorter spellings."""
    kept, after_resume = [], False
    for word in words:
        name = word.partition('=')[0]
        if len(name) > 2 and '--resume'.startswith(name):
            after_resume = name == word
        elif not after_resume or word.startswith('-'):
            kept.append(word)
            after_resume = False
        else:
            after_resume = False
    return kept
