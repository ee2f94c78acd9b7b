"""Show what the network will see: images as training crops, colours and normalizes them.

    mmcoke browse my/photos                  # what mmcoke train my/photos would show it
    mmcoke browse CONFIG.py --num 12
    mmcoke browse work_dirs/photos/config.py # of a run that has begun

The images are the first ones of training, their views those of its first epochs: the same data set,
seed, pipeline and data preprocessor make them. Written are a page, views.html, and for each view a
grid, as PNG and SVG.
"""

import argparse
from pathlib import Path

from mmcoke.cli.ending import WrongArgumentsError
from mmcoke.cli.options import add_options, home

HELP = 'see what the network will see, before training'
FOR_FOLDERS = ('config', 'image_size')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'source', type=home, metavar='FOLDER|CONFIG', help='folder of images, or config file'
    )
    parser.add_argument(
        '--out', type=home, help='folder to write to (work_dirs/FOLDER or CONFIG/views)'
    )
    parser.add_argument('--num', type=int, default=6, help='images (%(default)s)')
    parser.add_argument('--epochs', type=int, default=3, help='views of each (%(default)s)')
    parser.add_argument('--seed', type=int, help='of all random numbers (that of the config)')
    add_options(parser, 'model.data_preprocessor.views.0.0.p=0.5')
    group = parser.add_argument_group('with a folder, as for mmcoke train')
    group.add_argument('--config', type=home, help='another recipe than CoKe with two views')
    group.add_argument('--image-size', type=int, metavar='N', help='side of the crops, in pixels')


def check(args: argparse.Namespace) -> None:
    """Refuse what cannot be, before anything is imported."""
    for name in ('num', 'epochs'):
        if getattr(args, name) < 1:
            raise WrongArgumentsError(f'--{name} must be at least 1, but is {getattr(args, name)}.')
    if args.seed is not None and not 0 <= args.seed < 1 << 32:
        raise WrongArgumentsError(f'--seed must be in 0 ... 2^32 - 1, but is {args.seed}.')
    if args.out and Path(args.out).is_file():
        raise WrongArgumentsError(f'--out {args.out} is a file. Name a folder.')
    path = Path(args.source)
    if path.is_dir():
        return
    if not path.is_file() or path.suffix != '.py':
        kind = 'config' if path.suffix == '.py' else 'folder or config'
        raise WrongArgumentsError(f'there is no {kind} {args.source!r}')
    for name in FOR_FOLDERS:
        if getattr(args, name) is not None:
            option = name.replace('_', '-')
            raise WrongArgumentsError(f'--{option} is for a folder of images. Use --cfg-options.')


def run(args: argparse.Namespace) -> None:
    check(args)
    from mmcoke.cli import browse

    browse.main(args)
