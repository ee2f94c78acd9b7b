"""What the tools on frozen networks have in common: features, results, and how they end."""

import argparse
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dist import is_main_process
from rich.console import Console
from rich.progress import track
from rich.table import Column, Table
from torch.distributed.elastic.multiprocessing.errors import record
from torch.utils.data import Dataset

from mmcoke import zoo
from mmcoke.engine.launch import default_work_dir, joined_processes
from mmcoke.features.backbones import load_frozen, read_config
from mmcoke.features.extractor import locate as locate_model
from mmcoke.features.labelled import (
    ALL,
    LabelledFeatures,
    has_splits,
    labelled_features,
    split_images,
)
from mmcoke.reporting.results import table_of, write_results

from .ending import WrongArgumentsError, one_line_errors
from .options import home, merge_options


def load_config(args: argparse.Namespace) -> Config:
    """The config with the command line's choices; checkpoint and ``args.out`` become paths."""
    locate(args)
    cfg = read_config(args.config)
    merge_options(cfg, args.cfg_options)
    folder = Path(default_work_dir(args.config)) / 'benchmarks' / args.checkpoint.stem
    args.out = Path(home(args.out) if args.out else folder)
    return cfg


def locate(args: argparse.Namespace) -> None:
    """Make ``args.config`` and ``args.checkpoint`` paths, also of a model of the zoo."""
    if args.checkpoint is None:
        if str(args.config).endswith('.py'):
            raise WrongArgumentsError('a config needs a checkpoint: CONFIG CHECKPOINT')
        args.config, args.checkpoint = locate_model(args.config, None)
    args.config = home(str(args.config))
    args.checkpoint = zoo.local_file(home(str(args.checkpoint)))


def extract_splits(
    args: argparse.Namespace,
    cfg: Config,
    splits: Iterable[str],
    device: torch.device,
    check: Callable[[Mapping[str, Dataset]], None] = lambda datasets: None,
) -> dict[str, LabelledFeatures]:
    """Features of ``train`` or ``val``; what is in ``args.out`` already is not made again.

    Args:
        args, cfg: of the tool.
        splits: some of ``train`` and ``val``; of a ``--data-root`` without them all images, as
            ``all``.
        device: of the network.
        check: refuses data sets before anything is extracted.
    """
    if args.data_root is not None and not has_splits(args.data_root):
        splits = (ALL,)
    network = load_frozen(cfg, args.checkpoint)
    options = dict(data_root=args.data_root, size=args.size)
    datasets = {split: split_images(cfg, network, split, **options) for split in splits}
    check(datasets)
    return labelled_features(
        network,
        datasets,
        args.out / 'features',
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        device=device,
        progress=progress_bar('Extracting'),
        skip_unreadable=args.skip_unreadable,
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


@record
def run(tool: Callable[[argparse.Namespace, torch.device], None], args: argparse.Namespace) -> None:
    """Run in this process, as one of many if there are more; errors of users are one line.

    Here and not only where the command ends: torchrun's ``record`` reports what is not SystemExit.
    """
    with one_line_errors(args), joined_processes(args.launcher) as device:
        tool(args, device)
