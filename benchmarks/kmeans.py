"""Compare k-means here, by faiss.Kmeans from the same start, and by faiss.SuperKmeans (which takes
no start), all with labels of the samples for the final centers.

Two kinds of data, as Lloyd's algorithm settles soon in one and not in the other: samples around as
many points as clusters, and Gaussian noise. Prints times and objectives:

    python benchmarks/kmeans.py
"""

import argparse
from collections.abc import Callable
from functools import partial

import faiss
import torch
from _timing import alternating, finish, options, parse
from rich.console import Console
from torch import Tensor

from mmcoke.clustering import kmeans


def make_data(kind: str, args: argparse.Namespace) -> Tensor:
    """Samples (A, D)."""
    generator = torch.Generator().manual_seed(args.seed)
    x_AD = torch.randn(args.num_samples, args.dim, generator=generator)
    if kind == 'noise':
        return x_AD
    points_KD = torch.randn(args.num_clusters, args.dim, generator=generator)
    label_A = torch.randint(args.num_clusters, (args.num_samples,), generator=generator)
    return x_AD.addcmul_(points_KD[label_A], torch.tensor(args.separation))


def by_faiss(kind: type, x_AD: Tensor, start_KD: Tensor | None, num_iters: int) -> tuple:
    """Labels and centers."""
    # All samples count, however many.
    clustering = kind(
        x_AD.shape[1],
        by_faiss.num_clusters,
        niter=num_iters,
        max_points_per_centroid=1 << 30,
        min_points_per_centroid=1,
    )
    clustering.train(x_AD.numpy(), init_centroids=None if start_KD is None else start_KD.numpy())
    _, label = clustering.assign(x_AD.numpy())
    return torch.from_numpy(label), torch.from_numpy(clustering.centroids)


def objective(x_AD: Tensor, label_A: Tensor, centers_KD: Tensor) -> float:
    """Sum of squared distances, in float64."""
    parts = zip(x_AD.split(1 << 14), label_A.split(1 << 14), strict=True)
    return sum((x - centers_KD[label]).double().square().sum().item() for x, label in parts)


def runs(kind: str, args: argparse.Namespace) -> dict[str, Callable[[], tuple]]:
    """What is compared on one kind of data, by name."""
    x_AD = make_data(kind, args)
    start_KD = x_AD[torch.randperm(len(x_AD), generator=torch.Generator().manual_seed(args.seed))]
    start_KD = start_KD[: args.num_clusters].contiguous()
    here_AD, options = x_AD.to(args.device), dict(num_iters=args.num_iters)
    by_faiss.num_clusters = args.num_clusters
    found = {
        'ours': partial(kmeans, here_AD, args.num_clusters, init=start_KD, **options),
        'faiss.Kmeans': partial(by_faiss, faiss.Kmeans, x_AD, start_KD, **options),
    }
    if args.super:
        found['faiss.SuperKmeans'] = partial(by_faiss, faiss.SuperKmeans, x_AD, None, **options)
    functions = {f'{kind}: {name}': function for name, function in found.items()}
    for name, function in functions.items():
        args.objectives[name] = objective(x_AD, *function())
    return functions


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options(parser, repeats=5)
    for name, value in dict(samples=60_000, clusters=600, iters=10).items():
        parser.add_argument(f'--num-{name}', type=int, default=value, help='(%(default)s)')
    parser.add_argument('--dim', type=int, default=256, help='(%(default)s)')
    parser.add_argument('--data', nargs='+', default=['clustered', 'noise'], help='kinds')
    parser.add_argument(
        '--separation', type=float, default=1.0, help='of points, in deviations (%(default)s)'
    )
    parser.add_argument('--no-super', dest='super', action='store_false', help='of faiss')
    parser.add_argument('--seed', type=int, default=0)
    args = parse(parser)
    faiss.omp_set_num_threads(args.threads)
    args.objectives, times = {}, {}
    for kind in args.data:
        times |= alternating(runs(kind, args), args.repeats, device=args.device, warmup=0)
    finish(args, times, f'{args.data[0]}: faiss.Kmeans')
    for kind in args.data:
        reference = times[f'{kind}: faiss.Kmeans']['median']
        for name, value in args.objectives.items():
            if name.startswith(kind):
                ratio = times[name]['median'] / reference
                Console().print(f'{name}: {ratio:.3f} of faiss.Kmeans, objective {value:.8g}')


if __name__ == '__main__':
    main()
