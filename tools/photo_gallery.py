"""Cluster a folder of photos by what is on them, and show the clusters on a page.

    python tools/photo_gallery.py my/photos NAME --num-clusters 20
    python tools/photo_gallery.py my/photos --config CONFIG --checkpoint CHECKPOINT \\
        --num-clusters 20

NAME is a model of the zoo. The page holds everything and can be passed on. Steps 1 to 3 in
mmcoke/cli/photo_gallery.py are also what you would type into a notebook.
"""

import argparse

from mmcoke.cli.arguments import parse


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('folder', help='photos, also in folders below it')
    parser.add_argument('name', nargs='?', help='model of the zoo (tools/zoo.py list)')
    parser.add_argument('--config', help='of the network, instead of a name')
    parser.add_argument('--checkpoint', help='for this config')
    parser.add_argument('--num-clusters', type=int, required=True)
    parser.add_argument('--out', default='gallery.html', help='page to write (%(default)s)')
    parser.add_argument(
        '--num-shown', type=int, default=40, help='photos per cluster on the page (%(default)s)'
    )
    parser.add_argument(
        '--skip-unreadable', action='store_true', help='leave out photos that cannot be read'
    )
    parser.add_argument('--num-workers', type=int, default=0, help='processes that load photos')
    args = parse(parser)
    if bool(args.name) == bool(args.config) or bool(args.config) != bool(args.checkpoint):
        parser.error('give either the NAME of a model, or --config and --checkpoint')
    return args


def main() -> None:
    args = parse_args()
    from mmcoke.cli import photo_gallery

    photo_gallery.main(args)


if __name__ == '__main__':
    main()
