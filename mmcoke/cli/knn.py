"""Weighted k-nearest neighbours on frozen features: tools/benchmarks/knn.py."""

import argparse
from collections.abc import Mapping, Sequence

import torch
from mmengine.dist import is_main_process
from torch.utils.data import Dataset

from mmcoke.evaluation import knn_classify_many, knn_leave_one_out
from mmcoke.evaluation.knn import check_num_neighbours
from mmcoke.features.labelled import ALL

from .frozen_network import extract_splits, load_config, progress_bar, report, run

USUAL = (10, 20, 100, 200)
"""Numbers of neighbours, where none are asked for."""


def main(args: argparse.Namespace) -> None:
    run(knn, args)


def usable_ks(ks: Sequence[int] | None, datasets: Mapping[str, Dataset]) -> list[int]:
    """The numbers of neighbours, before all the work; of the usual ones those that there are.

    Raises:
        ValueError: if there are fewer images than were asked for.
    """
    most = len(datasets[ALL]) - 1 if ALL in datasets else len(datasets['train'])
    for k in ks or ():
        check_num_neighbours(k, most)
    return list(ks or [k for k in USUAL if k <= most] or [most])


def knn(args: argparse.Namespace, device: torch.device) -> None:
    """Extract, classify, write the accuracy."""
    cfg, ks = load_config(args), []
    sets = extract_splits(
        args, cfg, ('train', 'val'), device, check=lambda sets: ks.extend(usable_ks(args.k, sets))
    )
    if not is_main_process():
        return
    bar = progress_bar('Neighbours')
    options = dict(temperature=args.temperature, device=device, progress=bar)
    if ALL in sets:
        y, scored = sets[ALL].y, 'by all others (leave-one-out)'
        found = knn_leave_one_out(*sets[ALL], ks=ks, **options)
        sizes = dict(num_images=len(y))
    else:
        y, scored = sets['val'].y, 'of the validation images'
        found = knn_classify_many(*sets['train'], sets['val'].x, ks=ks, **options)
        sizes = dict(num_train=len(sets['train'].y), num_val=len(y))
    rows = [
        dict(k=k, top1=100 * (label.cpu() == y).double().mean().item(), **sizes)
        for k, label in found.items()
    ]
    protocol = (
        f'weighted k-nearest neighbours (Wu et al., CVPR 2018), temperature {args.temperature:g}, '
        f'cosine similarity of pooled features of {args.size}x{args.size} crops; top1 in percent '
        f'{scored}'
    )
    report(args, 'knn', rows, protocol)
