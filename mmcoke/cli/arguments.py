"""Arguments of the commands on frozen networks; without imports that take time."""

import argparse
import os

from .options import add_options, home

BENCHMARK_FOLDER = 'folder of features and results (work_dirs/CONFIG/benchmarks/CHECKPOINT)'


def add_frozen_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of benchmarks on folders of labelled images."""
    add_network_arguments(parser)
    parser.add_argument(
        '--data-root',
        type=home,
        help='labelled images: a folder per class, or train and val with one each (the data sets '
        'of the config)',
    )
    add_image_options(parser)


def add_image_options(parser: argparse.ArgumentParser) -> None:
    """Arguments of the commands that crop images of users."""
    parser.add_argument('--size', type=int, default=224, help='side of the images (%(default)s)')
    parser.add_argument(
        '--skip-unreadable',
        action='store_true',
        help='leave out images that cannot be read; unreadable.txt beside the features names them',
    )


def add_network_arguments(parser: argparse.ArgumentParser, out: str = BENCHMARK_FOLDER) -> None:
    """Arguments of all commands on a config and a checkpoint.

    Args:
        parser: of the command.
        out: what ``--out`` is, and in parentheses its default.
    """
    parser.add_argument(
        'config',
        help='config file that describes the network; or, without CHECKPOINT, the name of a model '
        'of the zoo',
    )
    parser.add_argument(
        'checkpoint',
        nargs='?',
        help="of mmcoke, mmpretrain, mmselfsup or torchvision's names; or mmcoke://NAME",
    )
    parser.add_argument('--out', help=out)
    add_loading_arguments(parser)
    add_options(parser, 'val_dataloader.dataset.data_root=my/data')
    add_launcher(parser)


def add_loading_arguments(parser: argparse._ActionsContainer) -> None:
    """How images come to a network."""
    parser.add_argument('--batch-size', type=int, default=64, help='images at a time (%(default)s)')
    parser.add_argument(
        '--num-workers',
        type=int,
        default=min(4, os.cpu_count()),
        help='processes that load images, per process (%(default)s)',
    )


def add_launcher(parser: argparse._ActionsContainer) -> None:
    """Whether this process is one of several."""
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch'],
        default='none',
        help='pytorch, where torchrun started this process',
    )


def add_vector_arguments(parser: argparse._ActionsContainer) -> None:
    """Where vectors of images come from: a network, or files."""
    parser.add_argument('--model', metavar='NAME', help='of the zoo (coke_r50_8xb64-mcrop_in1k)')
    parser.add_argument('--config', type=home, help='of a network, instead of --model')
    parser.add_argument('--checkpoint', type=home, help='for this config')
    parser.add_argument('--size', type=int, help='side of the images for the network (224)')
    parser.add_argument('--features', type=home, metavar='X.npy', help='float16 or float32 (A, D)')
    parser.add_argument(
        '--paths',
        type=home,
        metavar='TXT',
        help='the path of the image of each vector, a line each',
    )
