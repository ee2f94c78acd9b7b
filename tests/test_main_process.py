"""The other processes wait for k-means in the main process without a collective."""

import os
import re
import signal
import time
from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from threadpoolctl import threadpool_info

from mmcoke.clustering import DeepClusterLabeler, KMeansResult, kmeans
from mmcoke.engine import main_process
from mmcoke.engine.hooks.refit_hook import cluster_on_main
from mmcoke.engine.main_process import all_cores, run_on_main, signs_of_life

TIMEOUT = 2.0
"""Of the process group, in seconds; NCCL's is 10 minutes."""


class Labeler:
    """Clusters as told."""

    def __init__(self, cluster):
        self.labels = SimpleNamespace(label=torch.zeros(4, dtype=torch.int8))
        self.cluster = lambda x_AD, progress: cluster()


def slow():
    time.sleep(1.5 * TIMEOUT)
    return KMeansResult(torch.tensor([3, 1, 2, 0]), torch.zeros(4, 2), 0.0, 1)


def refuse():
    raise ValueError('The features are all the same.')


def run_out_of_memory():
    raise MemoryError('no room for 10 clusters')


def stop():
    time.sleep(TIMEOUT)
    os.kill(os.getpid(), signal.SIGKILL)


def join(rank, folder):
    main_process.BEAT, main_process.SILENCE = 0.2, 4.0
    dist.init_process_group(
        'gloo',
        f'file://{folder}/store',
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=TIMEOUT),
    )
    dist.barrier()


def outcome(cluster):
    """Labels, or the error, and the seconds until then."""
    start = time.monotonic()
    try:
        result = cluster_on_main(Labeler(cluster), None, 4, iter)
    except Exception as error:
        return type(error).__name__, str(error), time.monotonic() - start
    return result.label.tolist(), result.num_filled, time.monotonic() - start


def cluster_and_fail(rank, folder):
    join(rank, folder)
    seen = [outcome(cluster) for cluster in (slow, refuse, run_out_of_memory, slow)]
    torch.save(seen, f'{folder}/{rank}.pth')


def be_killed(rank, folder):
    join(rank, folder)
    torch.save(outcome(stop), f'{folder}/{rank}.pth')


def start(function, folder):
    context = torch.multiprocessing.get_context('spawn')
    processes = [context.Process(target=function, args=(rank, str(folder))) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    return [process.exitcode for process in processes]


def test_k_means_may_take_longer_than_a_collective_and_its_errors_reach_all(tmp_path):
    assert start(cluster_and_fail, tmp_path) == [0, 0]
    main, other = (torch.load(tmp_path / f'{rank}.pth') for rank in (0, 1))
    for seen in (main, other):
        for labels, num_filled, seconds in (seen[0], seen[3]):
            assert (labels, num_filled) == ([3, 1, 2, 0], 1)
            assert seconds > TIMEOUT
        assert seen[1][:2] == ('ValueError', 'The features are all the same.')
    assert main[2][:2] == ('MemoryError', 'no room for 10 clusters')
    assert other[2][:2] == (
        'RuntimeError',
        'The main process failed: MemoryError: no room for 10 clusters',
    )
    assert other[1][2] < TIMEOUT
    assert other[2][2] < TIMEOUT


def test_a_killed_main_process_is_noticed(tmp_path):
    assert start(be_killed, tmp_path) == [-signal.SIGKILL, 0]
    kind, message, seconds = torch.load(tmp_path / '1.pth')
    assert kind == 'RuntimeError'
    assert re.match('The main process has ended or hangs: no sign of life for 4 s', message)
    assert TIMEOUT < seconds < 60


def test_the_main_process_gives_signs_of_life_while_faiss_and_torch_work(monkeypatch):
    """They must not hold the interpreter for longer than a beat."""
    monkeypatch.setattr(main_process, 'BEAT', 0.01)
    store, gaps = dist.HashStore(), []

    def add(key, number, last=[time.monotonic()]):  # noqa: B006
        now = time.monotonic()
        gaps.append(now - last[0])
        last[0] = now

    monkeypatch.setattr(store, 'add', add, raising=False)
    x = torch.randn(60_000, 32, generator=torch.Generator().manual_seed(0))
    start = time.monotonic()
    with signs_of_life(SimpleNamespace(add=add)):
        kmeans(x, 200, num_iters=1)
    seconds = time.monotonic() - start
    assert len(gaps) > 3
    assert max(gaps) < seconds / 2


def test_the_main_process_has_all_cores_meanwhile_and_its_own_threads_after():
    kmeans(torch.randn(40, 3), 4)  # loads faiss
    threads = lambda: (torch.get_num_threads(), [p['num_threads'] for p in threadpool_info()])  # noqa: E731
    before, cores = threads(), len(os.sched_getaffinity(0))
    with all_cores():
        during = threads()
    assert during[0] == max(cores, before[0])
    assert set(during[1]) == {during[0]}
    assert threads() == before


def test_one_process_alone_keeps_its_threads():
    before = torch.get_num_threads()
    assert run_on_main(torch.get_num_threads) == before


def test_a_labeler_in_one_process_is_clustered_with_its_objective():
    x = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    labeler = DeepClusterLabeler(60, 5, pca_dim=4)
    clusters = cluster_on_main(labeler, x, 60, iter)
    expected = labeler.cluster(x)
    assert torch.equal(clusters.label, expected.label)
    assert np.array_equal(clusters.centers.numpy(), expected.centers.numpy())
    with pytest.raises(ValueError, match='2 of 60 samples are NaN'):
        cluster_on_main(labeler, x.index_fill(0, torch.tensor([3, 4]), torch.nan), 60, iter)
