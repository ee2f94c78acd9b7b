"""Turn a checkpoint of CoKe into the layout of the published code.

Its linear evaluation reads the result; to resume there, an optimizer state would have to be added.
"""

import argparse


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('src', help='mmcoke checkpoint, .pth')
    parser.add_argument('dst', help='checkpoint in the published layout to write, .pth.tar')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from mmcoke.weights.coke import mmcoke_to_coke

    try:
        print(mmcoke_to_coke(args.src, args.dst))
    except (OSError, ValueError) as error:
        raise SystemExit(f'error: {error}') from error


if __name__ == '__main__':
    main()
