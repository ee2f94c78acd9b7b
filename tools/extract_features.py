"""Write frozen features of a data set to disk: of any checkpoint, in data-set order.

    python tools/extract_features.py CONFIG CHECKPOINT --data-root my/images --features pooled

CONFIG is of mmcoke or mmpretrain; for torchvision's ResNet-50 there is
mmpretrain::resnet/resnet50_8xb32_in1k.py. With several processes:

    python -m torch.distributed.run --standalone --nproc-per-node 8 tools/extract_features.py \\
        CONFIG CHECKPOINT --launcher pytorch

An interrupted run goes on where it was: give the same command again.
"""

import argparse

from mmcoke.cli.arguments import add_image_options, network_parser, parse
from mmcoke.cli.options import home

FEATURES = (*(f'stage{stage}' for stage in range(5)), 'pooled', 'projected')


def parse_args() -> argparse.Namespace:
    parser = network_parser(__doc__, out='folder of the arrays (work_dirs/CONFIG/features/DATA)')
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
    return parse(parser)


def main() -> None:
    args = parse_args()
    from mmcoke.cli import extract_features

    extract_features.main(args)


if __name__ == '__main__':
    main()
