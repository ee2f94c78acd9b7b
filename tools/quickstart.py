"""Pre-train on handwritten digits without labels, and see what the features are worth.

Takes minutes on a laptop and downloads nothing: the digits ship inside scikit-learn.
"""

import argparse
from pathlib import Path

from mmcoke.cli.main import run
from mmcoke.cli.options import add_options
from mmcoke.cli.parser import Parser

ROOT = Path(__file__).resolve().parent.parent
METHODS = ('coke', 'secu', 'swav', 'deepclusterv2', 'deepcluster', 'sela', 'odc')
CONFIGS = {name: ROOT / f'configs/selfsup/{name}/{name}_tiny_1xb64_digits.py' for name in METHODS}


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    recipes = parser.add_mutually_exclusive_group()
    recipes.add_argument(
        '--config', default=CONFIGS['coke'], help='another recipe for the digits (%(default)s)'
    )
    recipes.add_argument(
        '--all', action='store_true', help='all seven methods, one after the other'
    )
    parser.add_argument('--seed', type=int, default=0, help='of weights, batches and centers (0)')
    parser.add_argument(
        '--work-dir', default='work_dirs/quickstart', help='where the results go (%(default)s)'
    )
    parser.add_argument('--resume', action='store_true', help='go on with an interrupted run')
    add_options(parser, 'train_cfg.max_epochs=20')
    parser.set_defaults(recipes=CONFIGS)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    print(__doc__.strip(), f'Results go to {args.work_dir}.\n', flush=True)
    from mmcoke.cli import quickstart

    quickstart.main(args)


if __name__ == '__main__':
    run(main, parse_args())
