"""Sort a folder of photos: ``mmcoke sort``."""

import argparse
import os
import sys

from mmengine.dist import is_main_process

from mmcoke.curation.sort import sort
from mmcoke.engine.interruption import command
from mmcoke.engine.launch import joined_processes
from mmcoke.messages import shown

NOT_SETTINGS = ('debug', 'launcher', 'run')


def main(args: argparse.Namespace) -> None:
    """Sort, and say what was found; after Ctrl-C, how to go on."""
    options = {name: value for name, value in vars(args).items() if name not in NOT_SETTINGS}
    try:
        with joined_processes(args.launcher) as device:
            summary = sort(**options, device=device)
            if is_main_process():
                print('\n'.join(report(summary, args.out)))
    except KeyboardInterrupt:
        if int(os.environ.get('RANK', 0)) == 0:
            print(f'\nStopped. Go on with:\n  {command(resume=True)}', file=sys.stderr)
        raise SystemExit(130) from None


def report(summary: dict, out: str) -> list[str]:
    """What was found, where it is, and what one may do next."""
    sizes, duplicates = summary['sizes'], summary['duplicates']
    coarser = ''.join(f' in {number:,}' for number in summary['levels'][1:])
    lines = [
        f'{summary["num_images"]:,} photos in {summary["num_clusters"]:,} clusters{coarser}, of '
        f'{sizes["least"]:,} to {sizes["most"]:,} photos (median {sizes["median"]:,.0f})'
    ]
    if duplicates['num_to_drop']:
        lines.append(
            f'{duplicates["num_to_drop"]:,} near duplicates of others (similarity from '
            f'{duplicates["threshold"]}): keep in images.csv'
        )
    elif duplicates['threshold']:
        lines.append(f'no near duplicates (similarity from {duplicates["threshold"]})')
    if summary['num_picks']:
        lines.append(f'{summary["num_picks"]:,} picked: pick_rank in images.csv')
    for name, what in (('unreadable', 'cannot be read'), ('removed', 'are gone')):
        if summary[name]:
            lines.append(f'{summary[name]:,} {what}: {shown(os.path.join(out, name))}.txt')
    page, table = (shown(os.path.join(out, name)) for name in ('index.html', 'images.csv'))
    return [*lines, f'Look at {page}; the cluster of each photo is in {table}']
