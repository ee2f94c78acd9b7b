"""Linear classification of frozen features: mmcoke evaluate linear."""

import argparse

import torch
from mmengine.dist import is_main_process

from mmcoke.evaluation import linear_probe, linear_probe_folds
from mmcoke.features.labelled import ALL

from .frozen_network import extract_splits, load_config, progress_bar, report, run


def main(args: argparse.Namespace) -> None:
    run(linear, args)


def linear(args: argparse.Namespace, device: torch.device) -> None:
    """Extract, fit, write the accuracy."""
    cfg = load_config(args)
    sets = extract_splits(args, cfg, ('train', 'val'), device)
    if not is_main_process():
        return
    if ALL in sets:
        x, y = sets[ALL]
        predicted = linear_probe_folds(x, y, progress=progress_bar('Folds'))
        sizes, scored = (
            dict(num_images=len(y)),
            'by stratified cross-validation, of at most 5 parts',
        )
    else:
        y, scored = sets['val'].y, 'of the validation images'
        predicted = linear_probe(*sets['train'], sets['val'].x)
        sizes = dict(num_train=len(sets['train'].y), num_val=len(y))
    top1 = 100 * (predicted == y).double().mean().item()
    protocol = (
        f'logistic regression (L2, C = 1, to convergence) on standardized pooled features of '
        f'{args.size}x{args.size} crops; top1 in percent {scored}'
    )
    report(args, 'linear', [dict(top1=top1, **sizes)], protocol)
