"""Write frozen features of a data set to disk: of any checkpoint, in data-set order.

    mmcoke features CONFIG CHECKPOINT --data-root my/images --features pooled

CONFIG is of mmcoke or mmpretrain; for torchvision's ResNet-50 there is
mmpretrain::resnet/resnet50_8xb32_in1k.py. An interrupted run goes on where it was: give the same
command again.
"""

import argparse

from mmcoke.cli.arguments import add_image_options, add_network_arguments
from mmcoke.cli.options import home

HELP = 'write features of images to disk'
FEATURES = (*(f'stage{stage}' for stage in range(5)), 'pooled', 'projected')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_network_arguments(parser, out='folder of the arrays (work_dirs/CONFIG/features/DATA)')
    data = parser.add_mutually_exclusive_group()
    data.add_argument(
        '--data-root',
        type=home,
        help='folder of images; its subfolders are the classes',
    )
    data.add_argument(
        '--split',
        choices=['train', 'val', 'test'],
        default='train',
        help="which of the config's data sets, without --data-root (%(default)s)",
    )
    parser.add_argument(
        '--features',
        nargs='+',
        choices=FEATURES,
        default=['pooled'],
        metavar='NAME',
        help=f'some of {", ".join(FEATURES)} (pooled)',
    )
    add_image_options(parser)


def run(args: argparse.Namespace) -> None:
    from mmcoke.cli import extract_features

    extract_features.main(args)
