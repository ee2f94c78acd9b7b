"""The model zoo: list the models, show what is known about one, download its file.

    mmcoke zoo list 'coke*'
    mmcoke zoo show coke_r50_2view_1000e
    mmcoke zoo download coke_r50_2view_1000e --convert torchvision --dest .

``download`` prints the path of the file, for CHECKPOINT=$(mmcoke zoo download NAME). Mirrors,
offline use and the cache: docs/zoo.md.
"""

import argparse

from mmcoke.cli.options import home

HELP = 'list, show and download models'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest='verb', metavar='VERB', required=True)
    verb = verbs.add_parser('list', help='a table of the models')
    verb.add_argument('pattern', nargs='?', default='*', help="of names, such as 'coke*'")
    verb = verbs.add_parser('show', help='all that is known about a model')
    verb.add_argument('name')
    verb = verbs.add_parser('download', help='get the file of a model, checked')
    verb.add_argument('name')
    verb.add_argument(
        '--dest', type=home, metavar='DIR', help='folder for a copy (else in the cache alone)'
    )
    verb.add_argument(
        '--convert',
        choices=('torchvision', 'timm', 'mmcoke'),
        help='the backbone alone for torchvision or timm; or a checkpoint of mmcoke, as without',
    )


def run(args: argparse.Namespace) -> None:
    from mmcoke.cli import zoo

    zoo.main(args)
