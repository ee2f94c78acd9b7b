"""Turn a checkpoint of the published CoKe code into one of mmcoke.

Takes the files of one view, of two views and of multi-crop. Weights are there in any case; centers,
duals and labels where the file has them. The optimizer is left out: train on with ``load_from``.
"""

import argparse

HELP = 'a checkpoint of the published CoKe code as one of mmcoke'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('src', help='published checkpoint, .pth.tar')
    parser.add_argument('dst', help='mmcoke checkpoint to write, .pth')


def run(args: argparse.Namespace) -> None:
    from mmcoke.weights.coke import coke_to_mmcoke

    print(coke_to_mmcoke(args.src, args.dst))
