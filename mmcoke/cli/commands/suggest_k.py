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

from mmcoke.cli.ending import WrongArgumentsError
from mmcoke.cli.options import home

HELP = 'how many clusters features have: curves, and a suggestion'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('folder', nargs='?', type=home, help='images, also in folders below it')
    parser.add_argument(
        '--out', type=home, default='suggest_k', help='folder of the results (%(default)s)'
    )
    group = parser.add_argument_group('features: of a network, or given; as for mmcoke sort')
    group.add_argument('--model', metavar='NAME', help='of the zoo (coke_r50_8xb64-mcrop_in1k)')
    group.add_argument('--config', type=home, help='of a network, instead of --model')
    group.add_argument('--checkpoint', type=home, help='for this config')
    group.add_argument('--size', type=int, help='side of the images for the network (224)')
    group.add_argument('--features', type=home, metavar='X.npy', help='float16 or float32 (A, D)')
    group.add_argument(
        '--paths', type=home, metavar='TXT', help='the path of the image of each, a line each'
    )
    parser.add_argument(
        '--max-clusters',
        type=int,
        metavar='K',
        help='largest number to try (a cluster per 20 images, at most 250)',
    )
    parser.add_argument('--seed', type=int, default=0, help='of all that is drawn (%(default)s)')
    parser.add_argument('--batch-size', type=int, default=64, help='images at a time (%(default)s)')
    parser.add_argument(
        '--num-workers',
        type=int,
        default=min(4, os.cpu_count()),
        help='processes that load images (%(default)s)',
    )


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
