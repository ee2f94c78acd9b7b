"""Sort a folder of photos by what is on them: a cluster for each, near duplicates, what to label
first, and a page to look at.

    mmcoke sort my/photos --out sorted
    mmcoke sort my/photos --out sorted --num-clusters 50 --levels 2 --pick 100 --link
    mmcoke sort my/photos --out sorted --add         # photos that are new in the folder
    mmcoke sort --features X.npy --paths paths.txt --out sorted

docs/sort.md says what the files in the folder of --out are. A sort that was stopped goes on with
the same command and --resume. Photos that cannot be read are left out; unreadable.txt names them.
"""

import argparse

from mmcoke.cli.arguments import add_launcher, add_loading_arguments, add_vector_arguments
from mmcoke.cli.ending import WrongArgumentsError
from mmcoke.cli.options import home

HELP = 'sort a folder of photos: clusters, near duplicates, what to label first'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('folder', nargs='?', type=home, help='photos, also in folders below it')
    parser.add_argument('--out', type=home, required=True, help='folder of the results')
    add_source(parser)
    add_clusters(parser)
    parser.add_argument(
        '--add', action='store_true', help='add photos that are new in the folder to a result'
    )
    parser.add_argument('--resume', action='store_true', help='go on with a sort that was stopped')
    add_machine(parser)


def add_source(parser: argparse.ArgumentParser) -> None:
    """Where the vectors come from."""
    add_vector_arguments(parser.add_argument_group('vectors: of a network, or given'))


def add_clusters(parser: argparse.ArgumentParser) -> None:
    """What is made of them."""
    group = parser.add_argument_group('results')
    group.add_argument(
        '--method',
        choices=['kmeans', 'dec'],
        help='streaming k-means, or deep embedded clustering (kmeans)',
    )
    group.add_argument(
        '--num-clusters',
        type=number_or_auto,
        metavar='K|auto',
        help='auto: the square root of the number of photos, 2 to 1,000 (auto)',
    )
    group.add_argument('--levels', type=int, metavar='L', help='of a hierarchy of clusters (1)')
    group.add_argument(
        '--min-size', type=int, metavar='N', help='least photos in a cluster (a tenth of the mean)'
    )
    group.add_argument(
        '--duplicates',
        type=threshold,
        metavar='T|off',
        help='least cosine similarity of near duplicates (0.9)',
    )
    group.add_argument('--pick', type=int, metavar='N', help='pick N photos that cover all (0)')
    group.add_argument(
        '--queries',
        type=int,
        metavar='N',
        help='show pictures like N typical ones, at most 60 (0)',
    )
    folders = group.add_mutually_exclusive_group()
    folders.add_argument('--link', action='store_true', help='a folder of links per cluster')
    folders.add_argument('--copy', action='store_true', help='a folder of copies per cluster')
    group.add_argument('--seed', type=int, help='of all that is drawn (0)')


def add_machine(parser: argparse.ArgumentParser) -> None:
    """What does not change results."""
    group = parser.add_argument_group('machine: does not change results')
    add_loading_arguments(group)
    add_launcher(group)


def number_or_auto(text: str) -> int | str:
    """K as it was typed."""
    return text if text == 'auto' else int(text)


def threshold(text: str) -> float:
    """T as it was typed; 0 for off."""
    return 0.0 if text == 'off' else float(text)


def check(args: argparse.Namespace) -> None:
    """Refuse options that do not go together, before anything is imported."""
    for one, other in (('config', 'checkpoint'), ('features', 'paths')):
        if bool(getattr(args, one)) != bool(getattr(args, other)):
            raise WrongArgumentsError(f'--{one} needs --{other}, and --{other} --{one}')
    if sum(map(bool, (args.model, args.config, args.features))) > 1:
        raise WrongArgumentsError(
            'give one of --model NAME, --config C --checkpoint F, --features X.npy --paths TXT'
        )
    if not (args.folder or args.features or args.add or args.resume):
        raise WrongArgumentsError('name the folder with your photos, or --features and --paths')


def run(args: argparse.Namespace) -> None:
    check(args)
    from mmcoke.cli import sort

    sort.main(args)
