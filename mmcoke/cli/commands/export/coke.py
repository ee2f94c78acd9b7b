"""Turn a checkpoint of CoKe into the layout of the published code.

Its linear evaluation reads the result; to resume there, an optimizer state would have to be added.
"""

import argparse

HELP = 'in the layout of the published CoKe code'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('src', help='mmcoke checkpoint, .pth')
    parser.add_argument('dst', help='checkpoint in the published layout to write, .pth.tar')


def run(args: argparse.Namespace) -> None:
    from mmcoke.weights.coke import mmcoke_to_coke

    print(mmcoke_to_coke(args.src, args.dst))
