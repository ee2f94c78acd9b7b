"""How well clusters agree with classes: k-means of frozen features, and a checkpoint's own labels.

    mmcoke evaluate cluster CONFIG CHECKPOINT --data-root data/imagenet

    mmcoke evaluate cluster CONFIG CHECKPOINT --data-root labelled

k-means finds as many clusters as there are classes in the validation images. The pseudo-labels that
a checkpoint of mmcoke holds are those of its training images, so these are needed as well: in
DATA_ROOT/train, or where the config says. If DATA_ROOT has a folder per class instead of train and
val, they are compared by the names of the files, as far as these are there.
"""

import argparse

from mmcoke.cli.arguments import add_frozen_arguments

HELP = 'agreement of clusters with classes'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_frozen_arguments(parser)
    parser.add_argument(
        '--split', choices=['train', 'val'], default='val', help='images for k-means (%(default)s)'
    )
    parser.add_argument(
        '--restarts', type=int, default=5, help='runs of k-means; the best one counts (%(default)s)'
    )


def run(args: argparse.Namespace) -> None:
    from mmcoke.cli import cluster

    cluster.main(args)
