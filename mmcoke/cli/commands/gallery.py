"""Cluster a folder of photos by what is on them, and show the clusters on a page.

    mmcoke gallery my/photos NAME --num-clusters 20
    mmcoke gallery my/photos --config CONFIG --checkpoint CHECKPOINT --num-clusters 20

NAME is a model of the zoo. The page holds everything and can be passed on.
"""

import argparse

from mmcoke.cli.ending import WrongArgumentsError
from mmcoke.cli.options import home

HELP = 'a page with the clusters of a folder of photos'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('folder', type=home, help='photos, also in folders below it')
    parser.add_argument('name', nargs='?', help='model of the zoo (mmcoke zoo list)')
    parser.add_argument('--config', type=home, help='of the network, instead of a name')
    parser.add_argument('--checkpoint', type=home, help='for this config')
    parser.add_argument('--num-clusters', type=int, required=True)
    parser.add_argument(
        '--out', type=home, default='gallery.html', help='page to write (%(default)s)'
    )
    parser.add_argument(
        '--num-shown', type=int, default=40, help='photos per cluster on the page (%(default)s)'
    )
    parser.add_argument(
        '--skip-unreadable', action='store_true', help='leave out photos that cannot be read'
    )
    parser.add_argument('--num-workers', type=int, default=0, help='processes that load photos')


def run(args: argparse.Namespace) -> None:
    if bool(args.name) == bool(args.config) or bool(args.config) != bool(args.checkpoint):
        raise WrongArgumentsError('give either the NAME of a model, or --config and --checkpoint')
    from mmcoke.cli import photo_gallery

    photo_gallery.main(args)
