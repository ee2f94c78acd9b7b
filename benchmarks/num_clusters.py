"""What `mmcoke suggest-k` suggests where the number of clusters is known, and where there are none.

    python benchmarks/num_clusters.py                      # mixtures and noise
    python benchmarks/num_clusters.py --features X.npy=10  # features of images of so many classes

Mixtures: unit vectors m + e normalized, m one of K random directions of length s, e Gaussian of
length 1; the most frequent component is so many times as frequent as the rarest. Each is drawn with
several seeds; the table has every answer. `sort` is the number that `mmcoke sort` takes by itself,
the square root of the number of images.
"""

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.nn.functional import normalize

from mmcoke.clustering.num_clusters import between, numbers_to_try, suggest, sweep
from mmcoke.curation.vectors import open_vectors
from mmcoke.files import write_text

MIXTURES = (
    (2, 8, 1.5, 1),
    (3, 64, 1.0, 5),
    (5, 128, 1.0, 20),
    (10, 128, 1.0, 1),
    (10, 128, 1.0, 10),
    (20, 128, 1.0, 3),
    (40, 64, 1.5, 1),
)
"""K, dimension, s, and how much more frequent the most frequent component is."""


def mixture(num_clusters: int, dim: int, length: float, imbalance: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    means = length * normalize(torch.randn(num_clusters, dim, generator=generator), dim=1)
    weight = (torch.linspace(0, 1, num_clusters) * math.log(imbalance)).exp()
    component = torch.multinomial(weight, max(1200, 60 * num_clusters), True, generator=generator)
    noise = torch.randn(len(component), dim, generator=generator) / dim**0.5
    return normalize(means[component] + noise, dim=1)


def noises(seed: int, number: int = 1200) -> Iterator[tuple[str, Tensor]]:
    """Vectors without clusters, by what they are."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    angle = 3 * torch.rand(number, generator=generator)
    arc = torch.stack([angle.cos(), angle.sin(), 0 * angle], 1) + 0.05 * normal(number, 3)
    yield 'Gaussian on the whole sphere, D = 3', normal(number, 3)
    yield 'the same, D = 128', normal(number, 128)
    yield 'one blob, elongated, D = 16', 3 + normal(number, 16) * torch.logspace(0, -1.5, 16)
    yield 'uniform in a cube, D = 4', 3 + torch.rand(number, 4, generator=generator)
    yield 'along an arc', arc
    yield 'a random layer with ReLU, 32 to 256', (normal(number, 32) @ normal(32, 256)).clamp(min=0)


def answer(x_AD: Tensor, most: int | None) -> dict:
    """What is suggested, and how sure it looks."""
    scores = sweep(x_AD, numbers_to_try(len(x_AD), most))
    missing = between(scores)
    scores = sorted(scores + sweep(x_AD, missing)) if missing else scores
    found, best = suggest(scores), max(scores, key=lambda one: one.silhouette)
    return dict(
        suggested=found.num_clusters,
        as_good=found.as_good,
        silhouette=best.silhouette,
        gap=best.gap,
        stability=best.stability,
        sort=max(2, min(1000, round(math.sqrt(len(x_AD))))),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--features', nargs='+', default=[], metavar='X.npy=K')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the figures here, too')
    args = parser.parse_args()
    rows = []
    for text in args.features:
        path, _, known = text.rpartition('=')
        rows.append(dict(of=Path(path).name, known=int(known), **answer(open_vectors(path), None)))
    if not args.features:
        for seed in track(args.seeds, description='Seeds'):
            for numbers in MIXTURES:
                of = 'mixture, K = {}, D = {}, s = {}, {} : 1'.format(*numbers)
                most = 2 * numbers[0] + 8
                rows.append(dict(of=of, known=numbers[0], **answer(mixture(*numbers, seed), most)))
            for of, x_AD in noises(seed):
                rows.append(dict(of=of, known=None, **answer(x_AD, 40)))
    table = Table(*rows[0])
    for row in sorted(rows, key=lambda row: row['of']):
        table.add_row(*(f'{x:.3f}' if isinstance(x, float) else str(x) for x in row.values()))
    Console(width=140).print(table)
    if args.json:
        write_text(args.json, json.dumps(rows, indent=2) + '\n')


if __name__ == '__main__':
    main()
