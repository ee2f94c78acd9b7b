"""VOC07 SVM and low-shot SVM on frozen features, of any checkpoint of a ResNet.

    python tools/benchmarks/voc_svm.py CONFIG CHECKPOINT --voc-root VOCdevkit/VOC2007 --low-shot

Extraction by several processes; the SVMs then by the first one, with all cores of one machine:

    OMP_NUM_THREADS=16 python -m torch.distributed.run --standalone --nproc-per-node 8 \\
        tools/benchmarks/voc_svm.py CONFIG CHECKPOINT --launcher pytorch

An interrupted run goes on where it was: give the same command again.
"""

import argparse

from mmcoke.cli.arguments import network_parser, parse

SHOTS = (1, 2, 4, 8, 16, 32, 64, 96)


def parse_args() -> argparse.Namespace:
    parser = network_parser(__doc__)
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
    return parse(parser)


def main() -> None:
    args = parse_args()
    from mmcoke.cli import voc_svm

    voc_svm.main(args)


if __name__ == '__main__':
    main()
