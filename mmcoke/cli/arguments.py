"""Arguments of the tools on frozen networks; without imports that take time."""

import argparse
import math
import os

from .options import add_options, home

BENCHMARK_FOLDER = 'folder of features and results (work_dirs/CONFIG/benchmarks/CHECKPOINT)'


def frozen_parser(description: str) -> argparse.ArgumentParser:
    """Parser with the arguments of benchmarks on folders of labelled images."""
    parser = network_parser(description)
    parser.add_argument(
        '--data-root',
        type=home,
        help="folder with train and val, each with a folder per class (the config's data sets)",
    )
    add_image_options(parser)
    return parser


def add_image_options(parser: argparse.ArgumentParser) -> None:
    """Arguments of the tools that crop images of users."""
    parser.add_argument('--size', type=int, default=224, help='side of the images (%(default)s)')
    parser.add_argument(
        '--skip-unreadable',
        action='store_true',
        help='leave out images that cannot be read; unreadable.txt beside the features names them',
    )


def network_parser(description: str, out: str = BENCHMARK_FOLDER) -> argparse.ArgumentParser:
    """Parser with the arguments of all tools.

    Args:
        description: of the tool.
        out: what ``--out`` is, and in parentheses its default.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file that describes the network')
    parser.add_argument(
        'checkpoint',
        help="of mmcoke, mmpretrain, mmselfsup or torchvision's names; or mmcoke://NAME",
    )
    parser.add_argument('--out', help=out)
    parser.add_argument('--batch-size', type=int, default=64, help='images at a time (%(default)s)')
    parser.add_argument(
        '--num-workers',
        type=int,
        default=min(4, os.cpu_count()),
        help='processes that load images, per process (%(default)s)',
    )
    add_options(parser, 'val_dataloader.dataset.data_root=my/data')
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch'],
        default='none',
        help='pytorch, where torchrun started this process',
    )
    return parser


LEAST = dict(batch_size=1, num_workers=0, size=1, k=1, restarts=1, num_clusters=1, num_shown=0)
"""Smallest values of arguments, of whichever tool."""


def check_arguments(args: argparse.Namespace) -> None:
    """ValueError if a number is out of its range."""
    for name, least in LEAST.items():
        values = getattr(args, name, None)
        for value in values if isinstance(values, (list, tuple)) else [values]:
            if value is not None and value < least:
                option = name.replace('_', '-')
                raise ValueError(f'--{option} must be at least {least}, but is {value}.')
    temperature = getattr(args, 'temperature', 1.0)
    if not 0 < temperature < math.inf:
        raise ValueError(f'--temperature must be positive, but is {temperature}.')


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments of this process; SystemExit with one line if one is wrong."""
    args = parser.parse_args()
    try:
        check_arguments(args)
    except ValueError as error:
        raise SystemExit(f'error: {error}') from error
    return args
