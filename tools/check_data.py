"""Check that a data set is there, complete and readable; say what is wrong and how to fix it.

Writes the list files that are missing, such as meta/train.txt, where the images are complete.
The exit code is 0 if nothing is wrong, else 1.
"""

import argparse
import os

NAMES = ('imagenet', 'voc07', 'places205', 'places365', 'inat18', 'cifar', 'stl10', 'folder')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('name', choices=NAMES, help='data set')
    parser.add_argument('root', help='its folder, such as data/imagenet')
    parser.add_argument(
        '--quick', action='store_true', help='do not decode the images, look at their names only'
    )
    parser.add_argument(
        '--workers',
        type=int,
        default=os.cpu_count(),
        help='processes that decode images (one per core)',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from mmcoke.cli import check_data

    check_data.main(args)


if __name__ == '__main__':
    main()
