"""Compare what ODC costs per iteration, beside the network, here and in mmselfsup 1.0.

Both get the same synthetic stream on the same CPU, in turns, at the size of ImageNet: 1,281,167
features of dimension 256, 10,000 clusters, batches of 512, centroids every 10 iterations, small
clusters and weights in every one, as in the paper. Prints medians; --scale 0.05 is a quick try:

    python benchmarks/odc_upkeep.py

mmselfsup wants a GPU and a process group: here it gets a `.cuda()` that does nothing and a group of
one process, so nothing is sent. Needs `pip install mmcoke[mmselfsup]`; 6 GB of memory at full size.
"""

import argparse
import json
import statistics
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import faiss
import numpy as np
import torch
import torch.distributed as dist
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.nn.functional import normalize

from mmcoke.clustering import KMeansResult, ODCLabeler

with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    from mmselfsup.engine.hooks import ODCHook
    from mmselfsup.models.memories import ODCMemory

NUM_SAMPLES, NUM_CLUSTERS, DIM, BATCH_SIZE = 1_281_167, 10_000, 256, 512
INTERVAL, MIN_SIZE, MOMENTUM = 10, 20, 0.5


class Clock:
    """Seconds of each call, by name."""

    def __init__(self) -> None:
        self.seconds = defaultdict(list)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name].append(time.perf_counter() - start)

    def median(self, name: str) -> float:
        """In milliseconds; 0 if there was no call."""
        return 1000 * statistics.median(self.seconds[name] or [0.0])


class Ours:
    def __init__(self, x_AD: Tensor, label_A: Tensor, num_clusters: int) -> None:
        self.clock = Clock()
        self.labeler = ODCLabeler(*x_AD.shape[:1], num_clusters, DIM, momentum=MOMENTUM)
        self.labeler.refit(x_AD, KMeansResult(label_A, x_AD[:num_clusters], 0.0, 0))
        self.add, self.labeler._add = self.labeler._add, self.timed_add

    def timed_add(self, *args: Tensor) -> None:
        start = time.perf_counter()
        self.add(*args)
        self.adding += time.perf_counter() - start

    def labels(self) -> Tensor:
        return self.labeler.labels.label

    def iterate(self, i: int, x_ND: Tensor, idx_N: Tensor) -> None:
        self.adding = 0.0
        start = time.perf_counter()
        self.labeler.step(normalize(x_ND, dim=1), idx_N)
        self.clock.seconds['memory'].append(time.perf_counter() - start - self.adding)
        self.clock.seconds['sums'].append(self.adding)
        if (i + 1) % INTERVAL == 0:
            with self.clock('centroids'):
                self.labeler.update_centroids()
        small = int((self.labeler.size < MIN_SIZE).sum())
        with self.clock('some small' if small else 'none small'):
            self.labeler.split_small_clusters()
        with self.clock('weights'):
            self.labeler.cluster_weight()

    def finish(self) -> None:
        with self.clock('epoch'):
            self.labeler.end_epoch()


class Theirs:
    def __init__(self, x_AD: Tensor, label_A: Tensor, num_clusters: int) -> None:
        self.clock = Clock()
        self.memory = ODCMemory(len(x_AD), DIM, MOMENTUM, num_clusters, MIN_SIZE)
        self.memory.init_memory(x_AD.numpy(), label_A.numpy())
        self.hook = ODCHook(INTERVAL, 1, 50, reweight=True, reweight_pow=0.5)
        head = SimpleNamespace(loss=SimpleNamespace())
        model = SimpleNamespace(
            memory_bank=self.memory, loss_weight=torch.zeros(num_clusters), head=head
        )
        self.runner = SimpleNamespace(model=SimpleNamespace(module=model))

    def labels(self) -> Tensor:
        return self.memory.label_bank

    def iterate(self, i: int, x_ND: Tensor, idx_N: Tensor) -> None:
        with self.clock('memory'):
            self.memory.update_samples_memory(idx_N, x_ND)
        if (i + 1) % INTERVAL == 0:
            with self.clock('centroids'):
                self.memory.update_centroids_memory()
        sizes = np.bincount(self.labels().numpy(), minlength=self.memory.num_classes)
        with self.clock('some small' if sizes.min() < MIN_SIZE else 'none small'):
            self.memory.deal_with_small_clusters()
        with self.clock('weights'):
            self.hook.set_reweight(self.runner)

    def finish(self) -> None:
        """Nothing is done at the end of an epoch."""


def make_data(
    num_samples: int, num_clusters: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Features around centers, their labels, and the centers; sizes are log-normal."""
    centers_KD = normalize(torch.randn(num_clusters, DIM, generator=generator), dim=1)
    share_K = torch.randn(num_clusters, generator=generator).mul(0.6).exp()
    size_K = (share_K / share_K.sum() * num_samples).long().clamp(min=MIN_SIZE)
    size_K[size_K.argmax()] += num_samples - size_K.sum()
    order_A = torch.randperm(num_samples, generator=generator)
    label_A = torch.arange(num_clusters).repeat_interleave(size_K)[order_A]
    x_AD = torch.empty(num_samples, DIM)
    for x_nD, label_n in zip(x_AD.split(1 << 16), label_A.split(1 << 16), strict=True):
        noise_nD = torch.randn(x_nD.shape, generator=generator) / DIM**0.5
        x_nD.copy_(normalize(centers_KD[label_n] + noise_nD, dim=1))
    return x_AD, label_A, centers_KD


def batches(
    x_AD: Tensor, centers_KD: Tensor, moving: float, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Features of one epoch and their indices: noise, and a share lies around another center."""
    for idx_N in torch.randperm(len(x_AD), generator=generator).split(BATCH_SIZE):
        size = (len(idx_N),)
        other_N = torch.randint(len(centers_KD), size, generator=generator)
        moves_N = torch.rand(size, generator=generator) < moving
        x_ND = torch.where(moves_N[:, None], centers_KD[other_N], x_AD[idx_N])
        yield x_ND + torch.randn(x_ND.shape, generator=generator) / DIM**0.5, idx_N


def amortized(clock: Clock, batches_per_epoch: int) -> dict[str, float]:
    """Milliseconds per iteration of each part, and their sums."""
    some, none = (len(clock.seconds[name]) for name in ('some small', 'none small'))
    cost = {
        'memory, nearest centroid': clock.median('memory'),
        'sums that follow': clock.median('sums'),
        'centroids': clock.median('centroids') / INTERVAL,
        'look for small clusters': clock.median('none small'),
        'weights': clock.median('weights'),
        'end of epoch': clock.median('epoch') / batches_per_epoch,
    }
    memory, *upkeep = cost.values()
    replaced = max(0, clock.median('some small') - clock.median('none small'))
    cost['replace small clusters'] = replaced * some / (some + none) if some else 0.0
    cost['upkeep, no small cluster'] = sum(upkeep)
    cost['upkeep'] = sum(upkeep) + cost['replace small clusters']
    cost['total'] = memory + cost['upkeep']
    return cost


def measure(args: argparse.Namespace) -> tuple[Ours, Theirs, int]:
    """Both after some iterations, in turns, on one stream; and how many."""
    num_samples, num_clusters = round(NUM_SAMPLES * args.scale), round(NUM_CLUSTERS * args.scale)
    generator = torch.Generator().manual_seed(args.seed)
    x_AD, label_A, centers_KD = make_data(num_samples, num_clusters, generator)
    both = [kind(x_AD, label_A, num_clusters) for kind in (Ours, Theirs)]
    num_iters = min(args.num_iters, num_samples // BATCH_SIZE)
    stream = zip(range(num_iters), batches(x_AD, centers_KD, args.moving, generator), strict=False)
    for i, (x_ND, idx_N) in track(stream, 'iterations', total=num_iters):
        for implementation in both if i % 2 else reversed(both):
            implementation.iterate(i, x_ND, idx_N)
    for implementation in both:
        implementation.finish()
    return *both, num_iters


def summarize(args: argparse.Namespace, ours: Ours, theirs: Theirs, num_iters: int) -> dict:
    num_samples, clocks = len(ours.labels()), dict(mmselfsup=theirs.clock, mmcoke=ours.clock)
    medians = {
        name: {part: clock.median(part) for part in clock.seconds} for name, clock in clocks.items()
    }
    return dict(
        options=vars(args) | dict(work_dir=str(args.work_dir)),
        num_samples=num_samples,
        num_clusters=ours.labeler.num_clusters,
        num_iters=num_iters,
        iterations_with_small_clusters=len(ours.clock.seconds['some small']),
        small_clusters=ours.labeler.num_small,
        changed=ours.labeler.changed().item(),
        equal_labels=(ours.labels() == theirs.labels()).float().mean().item(),
        ms_per_call=medians,
        ms_per_iteration={
            name: amortized(clock, num_samples // BATCH_SIZE) for name, clock in clocks.items()
        },
    )


def show(result: dict) -> None:
    title = (
        f'ODC: ms per iteration, medians\n{result["num_samples"]:,} samples, '
        f'{result["num_clusters"]:,} clusters, threads: {result["options"]["threads"]}'
    )
    table = Table('part', 'mmselfsup 1.0', 'mmcoke', 'ratio', title=title)
    theirs, ours = result['ms_per_iteration'].values()
    for part in theirs:
        ratio = f'{theirs[part] / ours[part]:.1f}' if theirs[part] and ours[part] else ''
        table.add_row(part, f'{theirs[part]:.2f}', f'{ours[part]:.2f}', ratio)
    console = Console()
    console.print(table)
    each = [calls.get('some small', 0.0) for calls in result['ms_per_call'].values()]
    took = f'; such a one took {each[0]:.0f} and {each[1]:.0f} ms for them' if any(each) else ''
    console.print(
        f'{result["iterations_with_small_clusters"]} of {result["num_iters"]} iterations had small '
        f'clusters, {result["small_clusters"]} in all{took}. {result["changed"]:.0%} of the labels '
        f'of a batch changed. In the end, {result["equal_labels"]:.2%} of the labels are equal: '
        'which half of a split cluster moves is arbitrary.'
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--scale', type=float, default=1.0, help='of samples and of clusters')
    parser.add_argument('--num-iters', type=int, default=300, help='at most one epoch')
    parser.add_argument('--moving', type=float, default=0.4, help='share near another center')
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/odc_upkeep'))
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    faiss.omp_set_num_threads(args.threads)
    torch.Tensor.cuda = lambda self: self
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    result = summarize(args, *measure(args))
    dist.destroy_process_group()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    path = args.work_dir / f'scale{args.scale:g}_seed{args.seed}.json'
    path.write_text(json.dumps(result, indent=2))
    show(result)
    print(path)


if __name__ == '__main__':
    main()
