"""When a process is killed, stopped or stuck, the others end and say which one it was."""

import multiprocessing
import os
import signal
import socket
import sys
import time
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from mmcoke.engine import processes as module
from mmcoke.engine.interruption import Agreement
from mmcoke.engine.processes import Peer, RankWatch, watched

TIMEOUT = 4.0  # seconds; a busy machine may hold up a living process, too
LONG = 600.0
FORK = multiprocessing.get_context('fork')


def killed(watch):
    os.kill(os.getpid(), signal.SIGKILL)


def stopped(watch):
    os.kill(os.getpid(), signal.SIGSTOP)


def failing(watch):
    raise ValueError('an error of its own')


def stuck_in_its_loader(watch):
    with watch.loading():
        time.sleep(600)


def works(rank, folder, port, fate, victim, timeout):
    """One of three processes, of which one meets its fate while the others wait for it."""
    os.environ.update(MASTER_ADDR='localhost', MASTER_PORT=str(port))
    sys.stderr = open(folder / str(rank), 'w', buffering=1)  # noqa: SIM115 (until the end)
    store = dist.TCPStore('localhost', port, 3, rank == 0)
    dist.init_process_group('gloo', store=store, rank=rank, world_size=3)
    with watched(timeout, lambda: 'Go on so.') as watch:
        dist.barrier()
        if rank == victim:
            fate(watch)
        dist.all_reduce(torch.ones(1))


def free_port():
    with socket.socket() as probe:
        probe.bind(('localhost', 0))
        return probe.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize('victim', [0, 2])
@pytest.mark.parametrize(
    ('fate', 'timeout', 'said'),
    [
        (killed, LONG, 'has ended'),
        (failing, LONG, 'has ended'),
        (stopped, TIMEOUT, 'has given no sign of life for 4 s'),
        (stuck_in_its_loader, TIMEOUT, 'has waited 4 s for a batch of its data loader'),
    ],
)
def test_the_others_end_and_name_the_process_that_is_lost(
    tmp_path, fate, timeout, said, victim, monkeypatch
):
    monkeypatch.setattr(module, 'LOADING_TIMES', 1)
    port = free_port()
    arguments = [(rank, tmp_path, port, fate, victim, timeout) for rank in range(3)]
    processes = [FORK.Process(target=works, args=each) for each in arguments]
    for process in processes:
        process.start()
    others = [process for rank, process in enumerate(processes) if rank != victim]
    for process in others:
        process.join(120)  # this limit is reached only if they do not end
    assert all(process.exitcode == 1 for process in others)
    processes[victim].kill()
    processes[victim].join()
    told = [(tmp_path / str(rank)).read_text() for rank in range(3) if rank != victim]
    for text in told:
        assert f'Process {victim} on {socket.gethostname()} (pid {processes[victim].pid})' in text
        assert said in text
        assert 'Go on so.' in text


def agrees(rank, folder, port):
    """Process 1 is told to stop in its third iteration; both should know it in the fourth."""
    os.environ.update(MASTER_ADDR='localhost', MASTER_PORT=str(port))
    store = dist.TCPStore('localhost', port, 2, rank == 0)
    dist.init_process_group('gloo', store=store, rank=rank, world_size=2)
    agreement = Agreement()
    told = [agreement.exchange(15 if (rank, i) == (1, 2) else 0) for i in range(4)]
    agreement.meet()
    dist.destroy_process_group()
    sys.exit(told != [0, 0, 0, 15])


def test_all_processes_know_in_the_same_iteration_that_one_was_told_to_stop(tmp_path):
    assert exit_statuses(agrees, tmp_path) == [0, 0]


def exit_statuses(function, folder):
    """Of two processes that run it."""
    port = free_port()
    processes = [FORK.Process(target=function, args=(rank, folder, port)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    return [process.exitcode for process in processes]


def waits(rank, folder, port):
    """The main process works for longer than the limit."""
    os.environ.update(MASTER_ADDR='localhost', MASTER_PORT=str(port))
    store = dist.TCPStore('localhost', port, 2, rank == 0)
    dist.init_process_group('gloo', store=store, rank=rank, world_size=2)
    with watched(TIMEOUT, str):
        if rank == 0:
            time.sleep(1.5 * TIMEOUT)
        dist.all_reduce(torch.ones(1))
    dist.destroy_process_group()


@pytest.mark.slow
def test_long_work_of_one_process_is_no_silence(tmp_path):
    assert exit_statuses(waits, tmp_path) == [0, 0]


def test_a_process_that_was_stopped_itself_accuses_nobody(monkeypatch):
    """As after Ctrl-Z and fg, or when a laptop wakes up."""
    ours, theirs = socket.socketpair()
    watch = RankWatch(10.0, str)
    clock = [0.0]
    time_of_test = SimpleNamespace(monotonic=lambda: clock[0])
    monkeypatch.setattr(module, 'time', time_of_test)
    watch._rank, watch.peers = 0, [Peer(ours, 'Process 1')]
    passes = iter([1, 2, 300, 301])  # seconds at which the thread looks

    def wait(interval):
        clock[0] = next(passes, None)
        return clock[0] is None

    monkeypatch.setattr(watch._closing, 'wait', wait)
    watch._watch()
    assert watch.verdict is None
    theirs.close()
