"""Check that a data set is there, complete and readable; say what is wrong and how to fix it.

    mmcoke check folder my/photos
    mmcoke check imagenet data/imagenet

Writes the list files that are missing, such as meta/train.txt, where the images are complete.
The exit code is 0 if nothing is wrong, else 1.
"""

import argparse
import os

from mmcoke.cli.options import home

HELP = 'see whether a data set is complete and readable'
NAMES = ('imagenet', 'voc07', 'places205', 'places365', 'inat18', 'cifar', 'stl10', 'folder')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('name', choices=NAMES, help='data set; folder: any images')
    parser.add_argument('root', type=home, help='its folder, such as data/imagenet')
    parser.add_argument(
        '--quick', action='store_true', help='do not decode the images, look at their names only'
    )
    parser.add_argument(
        '--workers',
        type=int,
        default=os.cpu_count(),
        help='processes that decode images (one per core)',
    )


def run(args: argparse.Namespace) -> None:
    from mmcoke.cli import check_data

    check_data.main(args)
