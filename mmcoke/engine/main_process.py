"""Long work in the main process, while the others wait without a collective that times out."""

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from mmengine.dist import get_world_size, is_main_process
from threadpoolctl import threadpool_limits

BEAT = 5.0
"""Seconds from one sign of life of the main process to the next."""

SILENCE = 60.0
"""Seconds without one, after which the others take the main process for dead."""

POLL = 0.2
DONE = b'done'

T = TypeVar('T')
_numbers = itertools.count()  # the same on all processes: they make the same calls


def run_on_main(function: Callable[[], T]) -> T | None:
    """Call a function in the main process only; the others wait until it returns, however long.

    They do not wait in a collective, where NCCL would give up after 10 minutes, but look into the
    store through which the processes have found each other. The main process gives a sign of life
    there every :data:`BEAT` seconds; if there is none for :data:`SILENCE` seconds, the others end.
    Meanwhile it uses all cores that it may run on, because the others need none.

    All processes call it, in the same order.

    Args:
        function: what to do; it may have as many threads as there are cores.

    Returns:
        What the function returned, in the main process; None in the others.

    Raises:
        Exception: in the main process, what the function raises.
        ValueError: in the others, with its message, if it is a ValueError.
        RuntimeError: in the others, with type and message, if it is anything else, or if the main
            process is gone.
    """
    if get_world_size() == 1:
        return function()
    store = dist.PrefixStore(
        f'mmcoke/main_process/{next(_numbers)}', dist.distributed_c10d._get_default_store()
    )
    if not is_main_process():
        return wait_for_main(store)
    try:
        with signs_of_life(store), all_cores():
            result = function()
    except BaseException as error:
        store.set('end', describe(error))
        raise
    store.set('end', DONE)
    return result


def wait_for_main(store: dist.Store) -> None:
    """Return when the main process has done its work; raise if it failed, or is silent."""
    last, heard = 0, time.monotonic()
    try:
        while not store.check(['end']):
            beats = store.add('beats', 0)
            if beats != last:
                last, heard = beats, time.monotonic()
            if time.monotonic() - heard > SILENCE:
                raise TimeoutError(f'no sign of life for {SILENCE:g} s')
            time.sleep(POLL)
        end = store.get('end')
    except (dist.DistError, OSError, RuntimeError) as error:
        raise RuntimeError(
            f'The main process has ended or hangs: {error}. See its log, then resume from the last '
            'checkpoint.'
        ) from None
    if end != DONE:
        kind, _, message = end.decode().partition('\n')
        if kind == ValueError.__name__:
            raise ValueError(message)
        raise RuntimeError(f'The main process failed: {kind}: {message}')


def describe(error: BaseException) -> str:
    """Kind and message of an error, for the other processes."""
    kind = ValueError if isinstance(error, ValueError) else type(error)
    return f'{kind.__name__}\n{error}'


@contextmanager
def signs_of_life(store: dist.Store) -> Iterator[None]:
    """Count up in the store, meanwhile, every :data:`BEAT` seconds."""
    ended = threading.Event()

    def beat() -> None:
        store.add('beats', 1)
        while not ended.wait(BEAT):
            store.add('beats', 1)

    thread = threading.Thread(target=beat, name='signs of life', daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def all_cores() -> Iterator[None]:
    """Let torch, BLAS and OpenMP use all cores that this process may run on, meanwhile.

    k-means may round otherwise than with fewer threads.
    """
    before = torch.get_num_threads()
    cores = max(before, len(os.sched_getaffinity(0)))
    try:
        with threadpool_limits(cores):
            torch.set_num_threads(cores)
            yield
    finally:
        torch.set_num_threads(before)
