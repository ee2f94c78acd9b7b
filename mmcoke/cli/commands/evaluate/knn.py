"""Weighted k-nearest neighbours on frozen features, of any checkpoint.

    mmcoke evaluate knn CONFIG CHECKPOINT --data-root data/imagenet
    mmcoke evaluate knn CONFIG CHECKPOINT --data-root labelled

DATA_ROOT has train and val; or a folder per class: then each image is classified by all others. An
interrupted run goes on where it was: give the same command again.
"""

import argparse

from mmcoke.cli.arguments import add_frozen_arguments

HELP = 'accuracy of the nearest neighbours'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_frozen_arguments(parser)
    parser.add_argument(
        '--k', type=int, nargs='+', help='neighbours (10 20 100 200, as far as there are images)'
    )
    parser.add_argument(
        '--temperature', type=float, default=0.07, help='of the votes (%(default)s)'
    )


def run(args: argparse.Namespace) -> None:
    from mmcoke.cli import knn

    knn.main(args)
