"""Turn a checkpoint of the published CoKe code into one of mmcoke.

Takes the files of one view, of two views and of multi-crop. Weights are there in any case; centers,
duals and labels where the file has them. The optimizer is left out: train on with ``load_from``.
"""

import argparse


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('src', help='published checkpoint, .pth.tar')
    parser.add_argument('dst', help='mmcoke checkpoint to write, .pth')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from mmcoke.weights.coke import coke_to_mmcoke

    try:
        print(coke_to_mmcoke(args.src, args.dst))
    except (OSError, ValueError) as error:
        raise SystemExit(f'error: {error}') from error


if __name__ == '__main__':
    main()
