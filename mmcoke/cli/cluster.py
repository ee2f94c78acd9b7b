"""How well clusters agree with classes: tools/benchmarks/cluster.py."""

import argparse

import torch
from mmengine.dist import is_main_process

from mmcoke.evaluation.clusterings import kmeans_scores, own_scores

from .frozen_network import extract_splits, load_config, progress_bar, report, run


def main(args: argparse.Namespace) -> None:
    run(cluster, args)


def cluster(args: argparse.Namespace, device: torch.device) -> None:
    """Extract, cluster, compare, write the scores."""
    cfg = load_config(args)
    ((split, (x, y)),) = extract_splits(args, cfg, (args.split,), device).items()
    if not is_main_process():
        return
    bar = progress_bar('k-means')
    rows = [
        dict(clusters='k-means', images=split)
        | kmeans_scores(x, y, num_restarts=args.restarts, progress=bar)
    ]
    own = own_scores(cfg, args.checkpoint, data_root=args.data_root)
    rows += [dict(clusters=name, images='train', **scores) for name, scores in own.items()]
    protocol = (
        f'clusters against classes: accuracy under the best one-to-one matching (Hungarian '
        f'method), NMI (arithmetic mean) and ARI, 0 ... 1. k-means: as many clusters as classes, '
        f'L2-normalized pooled features of {args.size}x{args.size} crops, the one with the least '
        f'objective of {args.restarts}. labelers: pseudo-labels in the checkpoint; '
        'num_without_class: images that have one, but are not in the folder of the classes'
    )
    report(args, 'cluster', rows, protocol)
