"""Weighted k-nearest neighbours on frozen features, of any checkpoint.

    python tools/benchmarks/knn.py CONFIG CHECKPOINT --data-root data/imagenet

With several processes:

    python -m torch.distributed.run --standalone --nproc-per-node 8 tools/benchmarks/knn.py \\
        CONFIG CHECKPOINT --data-root data/imagenet --launcher pytorch

An interrupted run goes on where it was: give the same command again.
"""

import argparse
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from mmengine.dist import is_main_process
from torch.distributed.elastic.multiprocessing.errors import record
from torch.utils.data import Dataset

from mmcoke.cli.frozen_network import (
    extract_splits,
    frozen_parser,
    load_config,
    progress_bar,
    report,
    run,
)
from mmcoke.evaluation import knn_classify_many
from mmcoke.evaluation.knn import check_num_neighbours


def parse_args() -> argparse.Namespace:
    parser = frozen_parser(__doc__)
    parser.add_argument(
        '--k', type=int, nargs='+', default=[10, 20, 100, 200], help='neighbours (10 20 100 200)'
    )
    parser.add_argument(
        '--temperature', type=float, default=0.07, help='of the votes (%(default)s)'
    )
    return parser.parse_args()


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


@record
def main() -> None:
    run(knn, parse_args())


if __name__ == '__main__':
    main()
