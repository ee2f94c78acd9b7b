"""Check that a data set is there, complete and readable; say what is wrong and how to fix it.

Writes the list files that are missing, such as meta/train.txt, where the images are complete.
The exit code is 0 if nothing is wrong, else 1.
"""

import argparse
import os
import sys
from functools import partial

from rich.console import Console
from rich.markup import escape
from rich.progress import track

from mmcoke.datasets.check import CHECKS, Report, check_data
from mmcoke.messages import shown


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('name', choices=CHECKS, help='data set')
    parser.add_argument('root', help='its folder, such as data/imagenet')
    parser.add_argument(
        '--quick', action='store_true', help='do not decode the images, look at their names only'
    )
    parser.add_argument(
        '--workers',
        type=int,
        default=os.cpu_count(),
        help='processes that decode images (one per core)',
    )
    return parser.parse_args()


def show(report: Report, console: Console) -> None:
    """Facts, then problems with their remedies."""
    console.print(escape(f'{report.name} in {shown(report.root)}'))
    for fact in report.facts:
        console.print(escape(f'  {shown(fact)}'))
    for problem in report.problems:
        what, remedy = (escape(shown(text)) for text in (problem.what, problem.remedy))
        console.print(f'  [red]wrong:[/] {what}\n    fix: {remedy}')
    if not report.problems:
        console.print('  [green]complete[/]')


def main() -> None:
    args = parse_args()
    console = Console(soft_wrap=True, highlight=False)
    try:
        report = check_data(
            args.name,
            args.root,
            decode=not args.quick,
            num_workers=args.workers,
            progress=partial(track, description='Decoding', console=console),
        )
    except KeyboardInterrupt:
        print('\nInterrupted. Give the same command again to go on.', file=sys.stderr)
        raise SystemExit(130) from None
    show(report, console)
    raise SystemExit(bool(report.problems))


if __name__ == '__main__':
    main()
