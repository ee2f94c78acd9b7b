"""The other processes wait for k-means in the main process without a collective."""

import os
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

TIMEOUT = 3.0
"""Of the process group, in seconds; NCCL's is 10 minutes."""

SILENCE = 4.0


class Labeler(torch.nn.Module):
    """Clusters as told."""

    def __init__(self, cluster):
        super().__init__()
        self.register_buffer('label', torch.zeros(4, dtype=torch.int8))
        self.cluster = lambda x_AD, progress: cluster()


def take_long():
    time.sleep(1.2 * TIMEOUT)
    return KMeansResult(torch.tensor([3, 1, 2, 0]), torch.zeros(4, 2), 0.0, 1)


def refuse():
    raise ValueError('The features are all the same.')


def run_out_of_memory():
    raise MemoryError('no room for 10 clusters')


def be_killed():
    os.kill(os.getpid(), signal.SIGKILL)


def outcome(cluster):
    """Labels or the kind of error, number or message, and the seconds until then."""
    start = time.monotonic()
    try:
        result = cluster_on_main(Labeler(cluster), None, 4, iter)
    except Exception as error:
        return type(error).__name__, str(error), time.monotonic() - start
    return result.label.tolist(), result.num_filled, time.monotonic() - start


def cluster_fail_and_die(rank, folder):
    main_process.BEAT, main_process.SILENCE = 0.2, SILENCE
    store = dist.FileStore(f'{folder}/store', 2)
    limit = timedelta(seconds=TIMEOUT)
    dist.init_process_group('gloo', store=store, rank=rank, world_size=2, timeout=limit)
    seen = []
    for cluster in (refuse, run_out_of_memory, take_long, be_killed):
        seen.append(outcome(cluster))
        torch.save(seen, f'{folder}/{rank}.pth')


def test_the_others_wait_longer_than_a_collective_may_and_notice_errors_and_death(tmp_path):
    context = torch.multiprocessing.get_context('fork')  # nothing to import again
    processes = [
        context.Process(target=cluster_fail_and_die, args=(rank, str(tmp_path))) for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [-signal.SIGKILL, 0]

    main, other = (torch.load(tmp_path / f'{rank}.pth') for rank in (0, 1))
    for seen in (main, other):
        assert seen[0][:2] == ('ValueError', 'The features are all the same.')
        labels, num_filled, seconds = seen[2]
        assert (labels, num_filled) == ([3, 1, 2, 0], 1)
        assert seconds > TIMEOUT
    memory_error = 'MemoryError: no room for 10 clusters'
    assert ': '.join(main[1][:2]) == memory_error
    assert other[1][:2] == ('RuntimeError', f'The main process failed: {memory_error}')
    kind, message, seconds = other[3]
    assert kind == 'RuntimeError'
    assert message.startswith('The main process has ended or hangs: no sign of life for 4 s. ')
    assert SILENCE < seconds < 60


def longest_silence(x):
    """Of the main process during one iteration of k-means, as a share of its time."""
    times = []
    store = SimpleNamespace(add=lambda key, number: times.append(time.monotonic()))
    with signs_of_life(store):
        start = time.monotonic()
        kmeans(x, 200, num_iters=1)
        end = time.monotonic()
    times = [start, *(moment for moment in times if start < moment < end), end]
    return max(np.diff(times)) / (end - start)


def test_the_main_process_gives_signs_of_life_while_kmeans_works(monkeypatch):
    """It must not hold the interpreter for longer than a beat; one try of ten tells, for a
    busy machine may stop any of the others."""
    monkeypatch.setattr(main_process, 'BEAT', 0.01)
    x = torch.randn(60_000, 32, generator=torch.Generator().manual_seed(0))
    assert any(longest_silence(x) < 1 / 2 for _ in range(10))


def test_the_main_process_has_all_cores_meanwhile_and_its_own_threads_after():
    pytest.importorskip('faiss')  # which has threads of its own
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
