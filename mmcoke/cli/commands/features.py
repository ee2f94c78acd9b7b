"""Write frozen features of a data set to disk: of any checkpoint, in data-set order.

    mmcoke features CONFIG CHECKPOINT --data-root my/images --features pooled

CONFIG is of mmcoke or mmpretrain; for torchvision's ResNet-50 there is
mmpretrain::resnet/resnet50_8xb32_in1k.py. An interrupted run goes on where it was: give the same
command again.
"""

import argparse

from mmcoke.cli.arguments import add_image_options, add_network_arguments
from mmcoke.cli.ending import WrongArgumentsError
from mmcoke.cli.options import home

HELP = 'write features of images to disk'
FEATURES = (*(f'stage{stage}' for stage in range(5)), 'pooled', 'projected')
TRIANGLE = 'triangle'


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
        type=feature,
        default=['pooled'],
        metavar='NAME',
        help=f'some of {", ".join(FEATURES)}; of these joined by +, as stage3+stage4: each '
        f'L2-normalized, beside each other; {TRIANGLE}: by distances to centers of clusters '
        '(pooled)',
    )
    centers = parser.add_mutually_exclusive_group()
    centers.add_argument(
        '--num-clusters', type=int, metavar='K', help=f'of {TRIANGLE}: k-means of pooled'
    )
    centers.add_argument(
        '--centers',
        type=home,
        metavar='FILE',
        help=f'of {TRIANGLE}: {TRIANGLE}_centers.pth beside the features of other images',
    )
    add_image_options(parser)


def feature(name: str) -> str:
    """A name as it was typed, if there is such a feature."""
    if name == TRIANGLE:
        return name
    for part in name.split('+'):
        if part not in FEATURES:
            alone = () if '+' in name else (TRIANGLE,)
            known = ', '.join(map(repr, (*FEATURES, *alone)))
            raise argparse.ArgumentTypeError(f'invalid choice: {part!r} (choose from {known})')
    return name


def check(args: argparse.Namespace) -> None:
    """Refuse options that do not go together, before anything is imported."""
    has_centers = args.centers is not None or args.num_clusters is not None
    if has_centers != (TRIANGLE in args.features):
        raise WrongArgumentsError(
            f'--features {TRIANGLE} needs --num-clusters K or --centers FILE, and these need it'
        )
    if args.num_clusters == 1:
        raise WrongArgumentsError(
            f'--num-clusters must be at least 2, but is 1: {TRIANGLE} would be 0 for all images'
        )


def run(args: argparse.Namespace) -> None:
    check(args)
    from mmcoke.cli import extract_features

    extract_features.main(args)
