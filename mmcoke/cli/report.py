"""The page about runs, and what is printed meanwhile: ``mmcoke report``."""

import argparse
from pathlib import Path

from mmengine.registry import DefaultScope
from rich.console import Console

from mmcoke.engine.run_report import SECONDS, write_run_report
from mmcoke.messages import shown
from mmcoke.reporting.report import REPORT


def main(args: argparse.Namespace) -> None:
    path = Path(args.out or Path(args.work_dir) / REPORT)
    if path.is_dir():
        raise ValueError(f'{shown(path)} is a folder. Give --out the name of a page in it.')
    console = Console(highlight=False)
    working = f'Looking at images, for up to {SECONDS:.0f} seconds, and drawing'
    with DefaultScope.overwrite_default_scope('mmcoke'), console.status(working):
        notes = write_run_report(path, [args.work_dir, *args.others])
    for note in notes:
        console.print(note, soft_wrap=True, markup=False)
    console.print(f'Wrote {shown(path)}', soft_wrap=True, markup=False)
