"""Streaming k-means beside faiss's spherical k-means (20 iterations over all points), or beside the
exact assignment to the same centers, or its memory:

    python benchmarks/streaming_kmeans.py                        # 60,000 x 64, K = 500
    python benchmarks/streaming_kmeans.py --data synthetic       # 1,000,000 x 128: minutes
    python benchmarks/streaming_kmeans.py --features x.npy --num-clusters 100
    python benchmarks/streaming_kmeans.py --exact                # 5,000 points of the data
    python benchmarks/streaming_kmeans.py --memory               # A x 256 on disk, K = 10,000
"""

import argparse
import tempfile
import threading
import time
from pathlib import Path

import faiss
import numpy as np
import torch
from _timing import alternating, finish, options, parse
from rich.console import Console
from torch import Tensor
from torch.nn.functional import normalize

from mmcoke.clustering import memory_mapped, stream_kmeans
from mmcoke.clustering.min_size import Repair
from mmcoke.clustering.row_stream import RowStream
from mmcoke.clustering.streaming_kmeans import (
    Clustering,
    assign_stream,
    default_batch_size,
    rows_per_chunk,
)

SIZES = dict(
    prototype=dict(num_samples=60_000, dim=64, points=800, power=3, num_clusters=500),
    synthetic=dict(num_samples=1_000_000, dim=128, points=3000, power=2, num_clusters=1000),
)


def made_up(num_samples: int, dim: int, points: int, power: int) -> Tensor:
    """Unit vectors around points of very different weights (A, D)."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(points, generator=generator) ** power
    point = torch.multinomial(weights, num_samples, True, generator=generator)
    points_PD = normalize(torch.randn(points, dim, generator=generator), dim=1)
    x_AD = torch.randn(num_samples, dim, generator=generator).mul_(0.9 / dim**0.5)
    return normalize(x_AD.add_(points_PD[point]), dim=1)


def by_faiss(x_AD: Tensor, num_clusters: int, num_iters: int, seed: int) -> float:
    """Mean similarity."""
    found = faiss.Kmeans(
        x_AD.shape[1],
        num_clusters,
        niter=num_iters,
        spherical=True,
        seed=seed,
        max_points_per_centroid=1 << 30,
        min_points_per_centroid=1,
    )
    found.train(x_AD.numpy())
    return float(found.index.search(x_AD.numpy(), 1)[0].mean())


def against_faiss(x_AD: Tensor, args: argparse.Namespace) -> None:
    found, sizes, bounds = {}, {}, dict.fromkeys(args.min_ratios)
    functions = {'faiss': lambda: by_faiss(x_AD, args.num_clusters, args.num_iters, args.seed)}

    def ours(ratio: float, name: str):
        bounds[ratio] = int(ratio * len(x_AD) / args.num_clusters)
        result = stream_kmeans(
            x_AD,
            args.num_clusters,
            min_size=bounds[ratio],
            num_passes=args.num_passes,
            seed=args.seed,
        )
        sizes[name] = torch.bincount(result.label, minlength=args.num_clusters).min().item()
        return result.similarity.mean().item()

    for ratio in args.min_ratios:
        name = f'ours, bound {ratio} A/K'
        functions[name] = lambda ratio=ratio, name=name: ours(ratio, name)
    recorded = {
        name: lambda name=name, function=function: found.__setitem__(name, function())
        for name, function in functions.items()
    }
    times = alternating(recorded, args.repeats, device=args.device, warmup=0)
    for name, value in found.items():
        ratio = value / found['faiss']
        least = f', smallest cluster {sizes[name]}' if name in sizes else ''
        Console().print(f'{name}: mean similarity {value:.5f}, {ratio:.4f} of faiss{least}')
    finish(args, times, 'faiss', similarity=found, smallest=sizes)


def against_exact(x_AD: Tensor, args: argparse.Namespace) -> None:
    """Labels and repair for given centers and duals, and the best assignment of these sizes."""
    x_AD = x_AD[:5000].contiguous()
    num_clusters = args.num_clusters
    for ratio in args.min_ratios:
        min_size = int(ratio * len(x_AD) / num_clusters)
        whole = stream_kmeans(x_AD, num_clusters, min_size=min_size, num_passes=args.num_passes)
        start = time.process_time()
        label, similarity, margin = assign_stream(x_AD, whole.centers, whole.dual)
        without = similarity.mean().item()
        stream = RowStream(x_AD, 1, 0, 'cpu')
        moved = Repair(
            stream.rows,
            whole.centers,
            *(label, similarity, margin),
            min_size=max(min_size, 1),
            rows_per_chunk=rows_per_chunk(whole.centers),
        ).run()
        ours = time.process_time() - start
        start = time.process_time()
        best = exact((x_AD @ whole.centers.T).double().numpy(), min_size)
        exactly = time.process_time() - start
        nearest = (x_AD @ whole.centers.T).amax(1).mean().item()
        Console().print(
            f'bound {min_size}: {similarity.mean():.5f} ({without:.5f} ahead of the repair, which '
            f'moved {moved}), best {best:.5f}, ratio {similarity.mean() / best:.5f}; without a '
            f'bound {nearest:.5f}; {ours:.3f} s, exact {exactly:.1f} s, 1/{exactly / ours:.0f}'
        )


def exact(similarity_AK: np.ndarray, min_size: int) -> float:
    """Mean similarity of the best assignment with a lower bound on sizes: a linear program, whose
    matrix is that of a network, so that its corners are whole numbers."""
    from scipy.optimize import linprog
    from scipy.sparse import identity, kron

    num_samples, num_clusters = similarity_AK.shape
    best = linprog(
        -similarity_AK.ravel(),
        A_eq=kron(identity(num_samples), np.ones((1, num_clusters)), format='csr'),
        b_eq=np.ones(num_samples),
        A_ub=-kron(np.ones((1, num_samples)), identity(num_clusters), format='csr'),
        b_ub=np.full(num_clusters, -min_size),
        method='highs',
    )
    return -best.fun / num_samples


def anonymous() -> int:
    """Bytes of memory that are no file's (Linux): now."""
    return int(Path('/proc/self/status').read_text().split('RssAnon:')[1].split()[0]) << 10


class Peak(threading.Thread):
    """The most of it, looked at every 5 ms, until ``stop`` is set."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.stop, self.bytes = threading.Event(), 0

    def run(self) -> None:
        while not self.stop.wait(0.005):
            self.bytes = max(self.bytes, anonymous())


def memory(args: argparse.Namespace) -> None:
    """Memory, the map's pages left out, of some batches, of a span of labels and of the repair."""
    for num_samples in args.num_samples:
        with tempfile.TemporaryDirectory() as folder:
            table = np.lib.format.open_memmap(
                f'{folder}/x.npy', 'w+', np.float16, (num_samples, 256)
            )
            for start in range(0, num_samples, 1 << 16):
                part = table[start : start + (1 << 16)]
                part[:] = np.random.default_rng(start).standard_normal(part.shape, np.float32)
            del part, table
            before, peak = anonymous(), Peak()
            peak.start()
            x_AD = memory_mapped(f'{folder}/x.npy')
            size = default_batch_size(num_samples, args.num_clusters)
            found = Clustering(RowStream(x_AD, size, 0, 'cpu'), args.num_clusters, 10, 3)
            for step in (0, 1, 16, 17, found.num_batches):
                found.step = step
                found.advance()
            # As if all were labelled, and nothing missing but in a few clusters.
            found.label_A = torch.arange(num_samples) % (args.num_clusters - 20)
            found.similarity_A.fill_(0.5)
            found.result()
            peak.stop.set()
            Console().print(
                f'{num_samples:,} x 256, K = {args.num_clusters:,}, batches of {size:,}: '
                f'{(peak.bytes - before) / 1e6:,.0f} MB'
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options(parser, repeats=3)
    parser.add_argument('--data', choices=SIZES, default='prototype', help='(%(default)s)')
    parser.add_argument('--features', type=Path, help='.npy, or .pth with them under "p"')
    parser.add_argument('--num-clusters', type=int, help='K')
    parser.add_argument('--num-passes', type=int, default=3, help='(%(default)s)')
    parser.add_argument('--num-iters', type=int, default=20, help='of faiss (%(default)s)')
    parser.add_argument('--min-ratios', type=float, nargs='+', default=[0.0, 0.1, 0.4])
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--exact', action='store_true')
    parser.add_argument('--memory', action='store_true')
    parser.add_argument('--num-samples', type=int, nargs='+', default=[250_000, 1_000_000])
    args = parse(parser)
    faiss.omp_set_num_threads(args.threads)
    if args.memory:
        args.num_clusters = args.num_clusters or 10_000
        memory(args)
        return
    if args.features is None:
        sizes = dict(SIZES[args.data])
        args.num_clusters = args.num_clusters or sizes['num_clusters']
        del sizes['num_clusters']
        x_AD = made_up(**sizes)
    else:
        x_AD = (
            memory_mapped(args.features)
            if args.features.suffix == '.npy'
            else torch.load(args.features, weights_only=True)['p']
        )
        x_AD = normalize(x_AD.float(), dim=1).contiguous()
        args.num_clusters = args.num_clusters or round(len(x_AD) ** 0.5)
    (against_exact if args.exact else against_faiss)(x_AD, args)


if __name__ == '__main__':
    main()
