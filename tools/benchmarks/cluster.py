"""How well clusters agree with classes: k-means of frozen features, and a checkpoint's own labels.

    python tools/benchmarks/cluster.py CONFIG CHECKPOINT --data-root data/imagenet

k-means finds as many clusters as there are classes in the validation images. The pseudo-labels that
a checkpoint of mmcoke holds are those of its training images, so these are needed as well: in
DATA_ROOT/train, or where the config says.
"""

import argparse

from mmcoke.cli.arguments import frozen_parser, parse


def parse_args() -> argparse.Namespace:
    parser = frozen_parser(__doc__)
    parser.add_argument(
        '--split', choices=['train', 'val'], default='val', help='images for k-means (%(default)s)'
    )
    parser.add_argument(
        '--restarts', type=int, default=5, help='runs of k-means; the best one counts (%(default)s)'
    )
    return parse(parser)


def main() -> None:
    args = parse_args()
    from mmcoke.cli import cluster

    cluster.main(args)


if __name__ == '__main__':
    main()
