"""How many clusters there are: a sweep of K on features, its curves, and a suggestion.

    mmcoke suggest-k my/photos
    mmcoke suggest-k my/photos --config CONFIG --checkpoint FILE
    mmcoke suggest-k --features X.npy

Each K is judged on images that its centers have not seen, and beside a Gaussian without clusters;
docs/suggest_k.md says how. Where the curves say nothing, so does the suggestion. Folders that the
images lie in are compared with the clusters, but decide nothing.
"""

import argparse
import os

from mmcoke.cli.arguments import add_loading_arguments, add_vector_arguments
from mmcoke.cli.ending import WrongArgumentsError
from mmcoke.cli.options import home

HELP = 'how many clusters features have: curves, and a suggestion'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('folder', nargs='?', type=home, help='images, also in folders below it')
    parser.add_argument(
        '--out', type=home, default='suggest_k', help='folder of the results (%(default)s)'
    )
    group = parser.add_argument_group('features: of a network, or given; as for mmcoke sort')
    add_vector_arguments(group)
    parser.add_argument(
        '--max-clusters',
        type=int,
        metavar='K',
        help='largest number to try (a cluster per 20 images, at most 250)',
    )
    parser.add_argument('--seed', type=int, default=0, help='of all that is drawn (%(default)s)')
    add_loading_arguments(parser)


def check(args: argparse.Namespace) -> None:
    """Refuse options that do not go together, before anything is imported."""
    if bool(args.config) != bool(args.checkpoint):
        raise WrongArgumentsError('--config needs --checkpoint, and --checkpoint --config')
    if args.paths and not args.features:
        raise WrongArgumentsError('--paths needs --features')
    if sum(map(bool, (args.model, args.config, args.features))) > 1:
        raise WrongArgumentsError(
            'give one of --model NAME, --config C --checkpoint F, --features X.npy'
        )
    if bool(args.folder) == bool(args.features):
        raise WrongArgumentsError('name either the folder with your images, or --features')
    if args.max_clusters is not None and args.max_clusters < 2:
        raise WrongArgumentsError(f'--max-clusters must be at least 2, but is {args.max_clusters}.')
    if not 0 <= args.seed < 1 << 32:
        raise WrongArgumentsError(f'--seed must be in 0 ... 2^32 - 1, but is {args.seed}.')
    if os.path.isfile(args.out):
        raise WrongArgumentsError(f'--out {args.out} is a file. Name a folder.')


def run(args: argparse.Namespace) -> None:
    check(args)
    from mmcoke.cli import suggest_k

    suggest_k.main(args)
