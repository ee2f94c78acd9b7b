"""Whether a data set is there, complete and readable: tools/check_data.py."""

import argparse
from functools import partial

from rich.console import Console
from rich.markup import escape
from rich.progress import track

from mmcoke.datasets.check import Report, check_data
from mmcoke.messages import shown


def main(args: argparse.Namespace) -> None:
    console = Console(soft_wrap=True, highlight=False)
    report = check_data(
        args.name,
        args.root,
        decode=not args.quick,
        num_workers=args.workers,
        progress=partial(track, description='Decoding', console=console),
    )
    show(report, console)
    raise SystemExit(bool(report.problems))


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
