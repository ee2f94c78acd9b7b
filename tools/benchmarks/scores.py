"""All scores of a run on CIFAR-10 in one call: clusters, k-means, nearest neighbours, linear probe.

    python tools/benchmarks/scores.py work_dirs/coke_r18_1xb128-2view_cifar10 --data data/cifar10

Takes the config and the last checkpoint of the work dir, and writes scores.json there. The
protocol: docs/cifar10.md.
"""

import argparse

from mmcoke.cli.main import run
from mmcoke.cli.options import add_options, home
from mmcoke.cli.parser import Parser


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument('work_dir', type=home, help='folder of a run')
    parser.add_argument('--config', type=home, help='of the run (the one in the work dir)')
    parser.add_argument('--checkpoint', type=home, help='(the last one of the work dir)')
    parser.add_argument(
        '--data',
        type=home,
        default='data/cifar10',
        help='folder with cifar10_train.npz and cifar10_test.npz, or the archive (%(default)s)',
    )
    parser.add_argument(
        '--download', action='store_true', help='download the archive where nothing is there'
    )
    parser.add_argument('--out', type=home, help='file of the result (WORK_DIR/scores.json)')
    parser.add_argument('--batch-size', type=int, default=1000, help='images at a time (1000)')
    parser.add_argument('--no-linear', action='store_true', help='leave the linear probe out')
    add_options(parser, 'model.backbone.base_channels=16')
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    from mmcoke.cli import scores

    scores.main(args)


if __name__ == '__main__':
    run(main, parse_args())
