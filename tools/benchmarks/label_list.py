"""List the training images whose labels may be used when only a share of them may."""

import argparse

from mmcoke.cli.main import run
from mmcoke.cli.parser import Parser


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument('root', help='folder with train/CLASS/IMAGE; gets meta/train_Xpercent.txt')
    parser.add_argument('--percent', type=float, required=True, help='of the images, such as 1')
    parser.add_argument(
        '--names',
        metavar='FILE',
        help="names of the images, one per line: SimCLR's imagenet_subsets/1percent.txt; "
        'without it, images are drawn',
    )
    parser.add_argument('--seed', type=int, default=0, help='of the drawing (0)')
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    from mmcoke.datasets.label_list import write_label_list

    path, size = write_label_list(args.root, args.percent, names=args.names, seed=args.seed)
    print(f'Wrote {path}: {size} images.')


if __name__ == '__main__':
    run(main, parse_args())
