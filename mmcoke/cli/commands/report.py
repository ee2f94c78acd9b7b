"""A page about training runs: how they went, and what is in their clusters.

    mmcoke report work_dirs/coke_r18_folder
    mmcoke report work_dirs/coke_r18_folder work_dirs/swav --out both.html

A run may still go on. The page is one file that can be passed on; beside it, in figures, each of
its charts is a file.
"""

import argparse

from mmcoke.cli.options import home

HELP = 'a page with the curves, clusters and results of runs'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('work_dir', type=home, help='folder of the run')
    parser.add_argument('others', nargs='*', default=[], type=home, help='runs to compare it with')
    parser.add_argument('--out', type=home, help='page to write (WORK_DIR/report.html)')


def run(args: argparse.Namespace) -> None:
    from mmcoke.cli import report

    report.main(args)
