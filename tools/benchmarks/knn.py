"""Weighted k-nearest neighbours on frozen features, of any checkpoint.

    python tools/benchmarks/knn.py CONFIG CHECKPOINT --data-root data/imagenet

With several processes:

    python -m torch.distributed.run --standalone --nproc-per-node 8 tools/benchmarks/knn.py \\
        CONFIG CHECKPOINT --data-root data/imagenet --launcher pytorch

An interrupted run goes on where it was: give the same command again.
"""

import argparse

from mmcoke.cli.arguments import frozen_parser, parse


def parse_args() -> argparse.Namespace:
    parser = frozen_parser(__doc__)
    parser.add_argument(
        '--k', type=int, nargs='+', default=[10, 20, 100, 200], help='neighbours (10 20 100 200)'
    )
    parser.add_argument(
        '--temperature', type=float, default=0.07, help='of the votes (%(default)s)'
    )
    return parse(parser)


def main() -> None:
    args = parse_args()
    from mmcoke.cli import knn

    knn.main(args)


if __name__ == '__main__':
    main()
