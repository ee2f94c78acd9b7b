"""What the tools on frozen networks have in common: arguments, results, and how they end."""

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.dist import is_main_process
from rich.console import Console
from rich.progress import track
from rich.table import Column, Table

from mmcoke import zoo
from mmcoke.engine.launch import default_work_dir, joined_processes
from mmcoke.features.backbones import load_frozen, read_config
from mmcoke.features.labelled import LabelledFeatures, labelled_features, split_images
from mmcoke.reporting.results import table_of, write_results

BENCHMARK_FOLDER = 'folder of features and results (work_dirs/CONFIG/benchmarks/CHECKPOINT)'


def frozen_parser(description: str) -> argparse.ArgumentParser:
    """Parser with the arguments of benchmarks on folders of labelled images."""
    parser = network_parser(description)
    parser.add_argument(
        '--data-root',
        help="folder with train and val, each with a folder per class (the config's data sets)",
    )
    parser.add_argument('--size', type=int, default=224, help='side of the images (%(default)s)')
    return parser


def network_parser(description: str, out: str = BENCHMARK_FOLDER) -> argparse.ArgumentParser:
    """Parser with the arguments of all tools.

    Args:
        description: of the tool.
        out: what ``--out`` is, and in parentheses its default.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file that describes the network')
    parser.add_argument(
        'checkpoint',
        help="of mmcoke, mmpretrain, mmselfsup or torchvision's names; or mmcoke://NAME",
    )
    parser.add_argument('--out', help=out)
    parser.add_argument('--batch-size', type=int, default=64, help='images at a time (%(default)s)')
    parser.add_argument(
        '--num-workers',
        type=int,
        default=min(4, os.cpu_count()),
        help='processes that load images, per process (%(default)s)',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='override settings of the config, such as val_dataloader.dataset.data_root=my/data',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch'],
        default='none',
        help='pytorch, where torchrun started this process',
    )
    return parser


def load_config(args: argparse.Namespace) -> Config:
    """The config with the command line's choices; checkpoint and ``args.out`` become paths."""
    args.checkpoint = zoo.local_file(args.checkpoint)
    cfg = read_config(args.config)
    cfg.merge_from_dict(args.cfg_options)
    folder = Path(default_work_dir(args.config)) / 'benchmarks' / args.checkpoint.stem
    args.out = Path(args.out or folder)
    return cfg


def extract_splits(
    args: argparse.Namespace, cfg: Config, splits: Iterable[str], device: torch.device
) -> dict[str, LabelledFeatures]:
    """Features of ``train`` or ``val``; what is in ``args.out`` already is not made again."""
    network = load_frozen(cfg, args.checkpoint)
    options = dict(data_root=args.data_root, size=args.size)
    return labelled_features(
        network,
        {split: split_images(cfg, network, split, **options) for split in splits},
        args.out / 'features',
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        device=device,
        progress=progress_bar('Extracting'),
    )


def progress_bar(what: str) -> Callable[[Iterable], Iterable]:
    """A bar in the main process, whose part is as large as any."""
    return partial(track, description=what) if is_main_process() else iter


def report(args: argparse.Namespace, name: str, rows: list[dict], protocol: str) -> None:
    """Write results by ``write_results``, and print their table."""
    source = dict(config=args.config, checkpoint=args.checkpoint)
    path = write_results(args.out, name, rows, protocol=protocol, **source)
    columns, *cells = table_of(rows)
    # Folded where the terminal is narrow: names cut off alike could not be told apart.
    table = Table(*(Column(name, overflow='fold') for name in columns))
    for line in cells:
        table.add_row(*line)
    console = Console()
    console.print(table)
    console.print(f'{path} and {path.with_suffix(".md").name}', soft_wrap=True)


def run(tool: Callable[[argparse.Namespace, torch.device], None], args: argparse.Namespace) -> None:
    """Run in this process, as one of many if there are more; errors of users are one line."""
    try:
        with joined_processes(args.launcher) as device:
            tool(args, device)
    except (OSError, ValueError) as error:
        raise SystemExit(f'error: {error}') from error
    except KeyboardInterrupt:
        print('\nInterrupted. Give the same command again to go on.', file=sys.stderr)
        raise SystemExit(130) from None
