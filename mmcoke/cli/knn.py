"""Weighted k-nearest neighbours on frozen features: tools/benchmarks/knn.py."""

import argparse
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from mmengine.dist import is_main_process
from torch.utils.data import Dataset

from mmcoke.evaluation import knn_classify_many
from mmcoke.evaluation.knn import check_num_neighbours

from .frozen_network import extract_splits, load_config, progress_bar, report, run


def main(args: argparse.Namespace) -> None:
    run(knn, args)


def check_ks(ks: Sequence[int], datasets: Mapping[str, Dataset]) -> None:
    """ValueError if there are fewer training images than neighbours, before all the work."""
    for k in ks:
        check_num_neighbours(k, len(datasets['train']))


def knn(args: argparse.Namespace, device: torch.device) -> None:
    """Extract, classify the validation images, write the accuracy."""
    cfg = load_config(args)
    sets = extract_splits(args, cfg, ('train', 'val'), device, check=partial(check_ks, args.k))
    if not is_main_process():
        return
    (x_train, y_train), (x_val, y_val) = sets['train'], sets['val']
    predicted = knn_classify_many(
        x_train,
        y_train,
        x_val,
        ks=args.k,
        temperature=args.temperature,
        device=device,
        progress=progress_bar('Neighbours'),
    )
    sizes = dict(num_train=len(y_train), num_val=len(y_val))
    rows = [
        dict(k=k, top1=100 * (label.cpu() == y_val).double().mean().item(), **sizes)
        for k, label in predicted.items()
    ]
    protocol = (
        f'weighted k-nearest neighbours (Wu et al., CVPR 2018), temperature {args.temperature:g}, '
        f'cosine similarity of pooled features of {args.size}x{args.size} crops; top1 in percent '
        'of the validation images'
    )
    report(args, 'knn', rows, protocol)
