"""A sweep of the number of clusters: ``mmcoke suggest-k``."""

import argparse
import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from mmcoke.clustering.num_clusters import (
    PER_CLUSTER,
    Scores,
    Suggestion,
    between,
    numbers_to_try,
    suggest,
    sweep,
)
from mmcoke.curation.sizes import warn_of_small_network
from mmcoke.curation.sort import DEFAULT_MODEL, Machine, network
from mmcoke.curation.vectors import check_given, has_direction, open_vectors
from mmcoke.features.extractor import image_files
from mmcoke.files import write_text
from mmcoke.messages import shown
from mmcoke.reporting.k_curves import write_k_page

MOST, SAMPLE = 250, 10_000
"""The largest number that is tried if nothing is said, and images for it."""


class Sample(NamedTuple):
    """What is clustered.

    Attributes:
        x_AD: features.
        classes: of the folders that the images lie in (A,); None if they do not lie in several.
        names: of these folders.
        number: images that there are.
        source: what the features are of.
    """

    x_AD: Tensor
    classes: Tensor | None
    names: list[str]
    number: int
    source: str


def main(args: argparse.Namespace) -> None:
    """Sweep, suggest, and write curves and page."""
    sample = given(args) if args.features else extracted(args)
    numbers = checked_numbers(len(sample.x_AD), args.max_clusters)
    options = dict(classes=sample.classes, seed=args.seed)
    scores = sweep(sample.x_AD, numbers, **options, progress=partial(track, description='K'))
    if missing := between(scores):
        near = partial(track, description='K nearby')
        scores = sorted(scores + sweep(sample.x_AD, missing, **options, progress=near))
    found = suggest(scores)
    path = write(Path(args.out), args, sample, scores, found)
    show(scores, found)
    print(f'Wrote {shown(path)}, with the curves beside it as PNG and SVG, and suggest_k.json.')


# ---- features


def given(args: argparse.Namespace) -> Sample:
    """Some of the vectors in a file."""
    x_AD = open_vectors(args.features)
    paths = check_given(args.features, args.paths) if args.paths else None
    rows = drawn(len(x_AD), args)
    some_AD = x_AD[torch.from_numpy(rows)].float()
    good = has_direction(some_AD)
    rows, some_AD = rows[good], some_AD[torch.from_numpy(good)]
    classes, names = (None, []) if paths is None else folders([paths[row] for row in rows])
    return Sample(some_AD, classes, names, len(x_AD), shown(args.features))


def extracted(args: argparse.Namespace) -> Sample:
    """Features of some images of a folder, by a network."""
    paths = image_files(args.folder)
    rows = drawn(len(paths), args)
    checked_numbers(len(rows), args.max_clusters)  # ahead of the work
    settings = dict(model=args.model, config=args.config, checkpoint=args.checkpoint)
    settings['size'] = args.size
    if not args.config:
        settings['model'] = args.model or DEFAULT_MODEL
    extractor = network(settings, Machine(args.batch_size, args.num_workers))
    some = [paths[row] for row in rows]
    by = shown(settings['model'] or Path(args.checkpoint).name)
    warn_of_small_network(extractor, some, by)
    x_AD = extractor(some, tensors=True, skip_unreadable=True)
    if extractor.unreadable:
        print(f'{len(extractor.unreadable):,} images cannot be read, and are left out.')
    good = has_direction(x_AD)
    kept = [path for path, is_good in zip(some, good.tolist(), strict=True) if is_good]
    classes, names = folders([os.path.relpath(path, args.folder) for path in kept])
    source = f'{shown(args.folder)}, by {by}'
    return Sample(x_AD[torch.from_numpy(good)], classes, names, len(paths), source)


def drawn(number: int, args: argparse.Namespace) -> np.ndarray:
    """Rows that are looked at: all, or as many as the largest number of clusters needs."""
    most = max(SAMPLE, PER_CLUSTER * (args.max_clusters or 0))
    random = np.random.default_rng(args.seed)
    return np.sort(random.permutation(number)[:most])


def checked_numbers(number: int, most: int | None) -> list[int]:
    """Numbers of clusters to try, of so many images."""
    if most is None and number >= MOST * PER_CLUSTER:
        most = MOST
    return numbers_to_try(number, most)


def folders(paths: Sequence[str]) -> tuple[Tensor | None, list[str]]:
    """The folder each image lies in, as a number; nothing if there are not several.

    Of paths such as ``train/cat/1.jpg`` it is ``cat``.
    """
    parents = [os.path.basename(os.path.dirname(path)) for path in paths]
    names = sorted(set(parents))
    if not 2 <= len(names) <= len(paths) / 2:
        return None, []
    number = {name: i for i, name in enumerate(names)}
    return torch.tensor([number[parent] for parent in parents]), list(map(shown, names))


# ---- results


def write(
    out: Path,
    args: argparse.Namespace,
    sample: Sample,
    scores: Sequence[Scores],
    found: Suggestion,
) -> Path:
    """``suggest_k.json``, the curves and the page; path of the page."""
    facts = dict(
        features=sample.source,
        num_images=sample.number,
        num_looked_at=len(sample.x_AD),
        dim=sample.x_AD.shape[1],
        seed=args.seed,
    )
    record = found._asdict() | facts
    record['classes'] = sample.names or None
    record['scores'] = [one._asdict() for one in scores]
    write_text(out / 'suggest_k.json', json.dumps(record, indent=2) + '\n')
    return write_k_page(out, scores, found, facts)


def show(scores: Sequence[Scores], found: Suggestion) -> None:
    """The table and the suggestion on the screen."""
    with_classes = scores[0].nmi is not None
    diagnosis = ('NMI*', 'ARI*') if with_classes else ()
    columns = ('K', 'silhouette', 'reference', 'stability', 'similarity', 'smallest')
    table = Table(*columns, box=box.SIMPLE)
    for name in diagnosis:
        table.add_column(name)
    for one in scores:
        numbers = (one.silhouette, one.reference_silhouette, one.stability, one.similarity)
        cells = [str(one.num_clusters), *(f'{x:.3f}' for x in numbers), f'{one.smallest:,}']
        cells += [f'{x:.3f}' for x in (one.nmi, one.ari)] if with_classes else []
        table.add_row(*cells, style='bold' if one.num_clusters == found.num_clusters else '')
    console = Console(highlight=False)
    console.print(table)
    if with_classes:
        console.print('* with the folders of the images: a diagnosis, which decides nothing')
    console.print('reference: the silhouette of a Gaussian without clusters')
    console.print(found.reason, soft_wrap=True, markup=False)
