"""Compare the methods on CIFAR-10, by the protocol of docs/cifar10.md.

    python tools/reproduce_cifar10.py --data data/cifar10                      (a GPU: hours)
    python tools/reproduce_cifar10.py --methods coke-2view secu --epochs 100 --seeds 0
    python tools/reproduce_cifar10.py --num-images 10000 --width 16 --epochs 14   (CPU)
    python tools/reproduce_cifar10.py --small                                  (digits: minutes)

Trains each method with each seed, measures, and writes table.md, results.json, curves.svg and
curves.png into the work dir after each run. Stop it whenever you like: the same command goes on.
"""

import argparse
from pathlib import Path

from mmcoke.cli.main import run
from mmcoke.cli.options import add_options, home
from mmcoke.cli.parser import Parser

ROOT = Path(__file__).resolve().parent.parent
RECIPES = {
    'coke': 'coke/coke_r18_1xb128_cifar10.py',
    'coke-2view': 'coke/coke_r18_1xb128-2view_cifar10.py',
    'secu': 'secu/secu_r18_1xb128_cifar10.py',
    'swav': 'swav/swav_r18_1xb128_cifar10.py',
    'deepclusterv2': 'deepclusterv2/deepclusterv2_r18_1xb128_cifar10.py',
    'deepcluster': 'deepcluster/deepcluster_r18_1xb128_cifar10.py',
    'odc': 'odc/odc_r18_1xb128_cifar10.py',
}
"""Recipes below configs/selfsup; those of the digits: :func:`recipes_of`."""


SMALL_EPOCHS = 10
MIN_WIDTH = 8
"""With fewer channels a strided 1 x 1 convolution of torch on a CPU hangs, crashes or has wrong
gradients (oneDNN, issue 6035)."""


def recipes_of(small: bool) -> dict[str, Path]:
    """Recipe of each method that has one, for CIFAR-10 or for the digits."""
    paths = {name: ROOT / 'configs/selfsup' / path for name, path in RECIPES.items()}
    if small:
        for name, path in paths.items():
            file = path.name.replace('r18_1xb128', 'tiny_1xb64').replace('cifar10', 'digits')
            paths[name] = path.with_name(file)
    return {name: path for name, path in paths.items() if path.is_file()}


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument(
        '--methods', nargs='+', choices=RECIPES, metavar='METHOD', help=f'of {", ".join(RECIPES)}'
    )
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2], help='(0 1 2)')
    parser.add_argument('--epochs', type=int, help='of each method (those of its recipe)')
    parser.add_argument(
        '--data',
        type=home,
        default='data/cifar10',
        help='folder with cifar10_train.npz and cifar10_test.npz, or the archive, which is '
        'downloaded where nothing is there (%(default)s)',
    )
    parser.add_argument(
        '--small',
        action='store_true',
        help=f'the digits that scikit-learn ships, {SMALL_EPOCHS} epochs; checks that the methods '
        'come in the order that they should (docs/cifar10.md)',
    )
    parser.add_argument('--num-images', type=int, help='of the training split, by class (all)')
    parser.add_argument(
        '--width', type=int, help=f"channels of the network's stem (64; at least {MIN_WIDTH})"
    )
    parser.add_argument(
        '--train-and-test',
        action='store_true',
        help='train on both splits, and score clusters on both: the protocol of half the papers',
    )
    parser.add_argument('--knn-every', type=int, help='epochs between two points (1/20 of all)')
    parser.add_argument('--work-dir', type=home, help='(work_dirs/cifar10, or cifar10_small)')
    parser.add_argument(
        '--resume', action='store_true', help='as without: what was interrupted always goes on'
    )
    add_options(parser, 'train_dataloader.batch_size=256, in all methods')
    args = parser.parse_args()
    for name, least in dict(epochs=1, num_images=1, width=MIN_WIDTH, knn_every=1).items():
        if getattr(args, name) is not None and getattr(args, name) < least:
            parser.error(f'--{name.replace("_", "-")} must be at least {least}')
    if args.small and (args.width or args.num_images):
        parser.error('--small has its own images and networks: no --width, no --num-images')
    args.order_due = args.small and args.epochs is None and not args.cfg_options
    args.epochs = args.epochs or (SMALL_EPOCHS if args.small else None)
    args.recipes = recipes_of(args.small)
    args.methods = list(dict.fromkeys(args.methods or args.recipes))
    if missing := [name for name in args.methods if name not in args.recipes]:
        parser.error(f'there is no recipe of {", ".join(missing)} (of {", ".join(args.recipes)})')
    args.work_dir = args.work_dir or f'work_dirs/cifar10{"_small" if args.small else ""}'
    return args


def main(args: argparse.Namespace) -> None:
    from mmcoke.cli import reproduce_cifar10

    reproduce_cifar10.main(args)


if __name__ == '__main__':
    run(main, parse_args())
