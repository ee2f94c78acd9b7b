"""VOC07 SVM and low-shot SVM on frozen features, of any checkpoint of a ResNet.

    mmcoke evaluate voc-svm CONFIG CHECKPOINT --voc-root VOCdevkit/VOC2007 --low-shot

An interrupted run goes on where it was: give the same command again.
"""

import argparse

from mmcoke.cli.arguments import add_network_arguments

HELP = 'average precision of SVMs on VOC07, all images or few'
SHOTS = (1, 2, 4, 8, 16, 32, 64, 96)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_network_arguments(parser)
    parser.add_argument(
        '--voc-root', default='data/VOCdevkit/VOC2007', help='of the devkit (%(default)s)'
    )
    parser.add_argument(
        '--stages',
        type=int,
        nargs='+',
        choices=range(5),
        default=range(5),
        metavar='STAGE',
        help='fit SVMs on some of 0 (stem) ... 4 (all)',
    )
    parser.add_argument('--low-shot', action='store_true', help='low-shot SVMs, too')
    parser.add_argument(
        '--shots', type=int, nargs='+', default=SHOTS, metavar='K', help='1 2 4 8 16 32 64 96'
    )
    parser.add_argument('--seed', type=int, default=0, help='of the low-shot samples (%(default)s)')
    parser.add_argument(
        '--parity',
        action='store_true',
        help='count ignored training images as negatives, as the published tools do',
    )


def run(args: argparse.Namespace) -> None:
    from mmcoke.cli import voc_svm

    voc_svm.main(args)
