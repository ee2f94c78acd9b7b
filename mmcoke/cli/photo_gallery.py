"""Cluster a folder of photos by what is on them, and show the clusters: tools/photo_gallery.py."""

import argparse
from functools import partial
from pathlib import Path

import torch
from rich.progress import track
from torch.nn.functional import normalize

import mmcoke
from mmcoke.clustering import kmeans
from mmcoke.clustering.pseudo_labels import check_num_clusters
from mmcoke.curation.sizes import warn_of_small_network
from mmcoke.evaluation.clusterings import spread_samples
from mmcoke.features.extractor import image_files
from mmcoke.features.unreadable import UNREADABLE, write_notes
from mmcoke.messages import shown
from mmcoke.reporting.gallery import write_gallery


def main(args: argparse.Namespace) -> None:
    check(args)
    make_gallery(args)


def make_gallery(args: argparse.Namespace) -> None:
    # 1. Features: a row per photo, in the order of their names.
    extractor = mmcoke.FeatureExtractor(
        args.name or args.config, args.checkpoint, num_workers=args.num_workers
    )
    by = shown(args.name or Path(args.checkpoint).name)
    warn_of_small_network(extractor, image_files(args.folder), by)
    try:
        features, photos = extractor(
            args.folder, tensors=True, skip_unreadable=args.skip_unreadable
        )
    finally:
        list_unreadable(args.out, extractor)

    # 2. Clusters: only the direction of a feature counts, so all become unit vectors.
    x = normalize(features, dim=1)
    start = spread_samples(x, args.num_clusters)
    label, centers = kmeans(x, args.num_clusters, spherical=True, init=start)
    similarity = (x * centers[label]).sum(1)  # cosine, of each photo to the center of its cluster

    # 3. A look at them.
    sizes = torch.bincount(label).sort(descending=True).values.tolist()
    print(f'{len(photos)} photos, features of {x.shape[1]} numbers; sizes of the clusters: {sizes}')
    write_gallery(
        args.out,
        photos,
        label,
        similarity,
        title=f'{len(photos)} photos in {args.num_clusters} clusters',
        summary=f'By {by}. The most typical photos first.',
        num_shown=args.num_shown,
        progress=partial(track, description='Thumbnails'),
    )
    print(f'Wrote {args.out}.')


def check(args: argparse.Namespace) -> None:
    """ValueError, before the work, for what would fail after it."""
    if Path(args.out).is_dir():
        raise ValueError(f'{args.out} is a folder. Give --out the name of a page in it.')
    check_num_clusters(args.num_clusters, len(image_files(args.folder)))


def list_unreadable(page: str, extractor: mmcoke.FeatureExtractor) -> None:
    """Name photos that cannot be read in a file beside the page."""
    if extractor.unreadable:
        path = Path(page).with_name(f'{Path(page).stem}_{UNREADABLE}')
        write_notes(path, extractor.unreadable)
        print(f'{len(extractor.unreadable):,} photos cannot be read: {path}')
