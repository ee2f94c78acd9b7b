"""List the training images whose labels may be used when only a share of them may."""

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('root', help='folder with train/CLASS/IMAGE; gets meta/train_Xpercent.txt')
    parser.add_argument('--percent', type=float, required=True, help='of the images, such as 1')
    parser.add_argument(
        '--names',
        metavar='FILE',
        help="names of the images, one per line: SimCLR's imagenet_subsets/1percent.txt; "
        'without it, images are drawn',
    )
    parser.add_argument('--seed', type=int, default=0, help='of the drawing (0)')
    args = parser.parse_args()
    from mmcoke.datasets.label_list import write_label_list

    try:
        path, size = write_label_list(args.root, args.percent, names=args.names, seed=args.seed)
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error
    print(f'Wrote {path}: {size} images.')


if __name__ == '__main__':
    main()
