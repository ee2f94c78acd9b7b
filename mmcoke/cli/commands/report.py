"""A page with the curves of a run, and what was evaluated in its work dir.

    mmcoke report work_dirs/coke_r18_folder

The run may still go on; the page is one file that can be passed on.
"""

import argparse
from pathlib import Path

from mmcoke.cli.options import home

HELP = 'a page with the curves and results of a run'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('work_dir', type=home, help='folder of the run')
    parser.add_argument('--out', type=home, help='page to write (WORK_DIR/curves.html)')


def run(args: argparse.Namespace) -> None:
    path = Path(args.out or Path(args.work_dir) / 'curves.html')
    from mmcoke.messages import shown
    from mmcoke.reporting.curves import write_curves_page

    kinds = write_curves_page(path, args.work_dir)
    print(f'Wrote {shown(path)}: {", ".join(kinds)}.')
