"""All scores of a run on CIFAR-10: tools/benchmarks/scores.py."""

import argparse
import json
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from rich.console import Console
from rich.table import Table
from torch import nn

from mmcoke.datasets import InMemoryImages
from mmcoke.datasets.cifar10 import cifar10_sources
from mmcoke.engine.checkpoint import checkpoint_to_resume
from mmcoke.evaluation.clusterings import clusters_of
from mmcoke.evaluation.protocol import PROTOCOL, protocol_scores
from mmcoke.features.backbones import load_frozen, read_config
from mmcoke.features.plain_images import num_channels
from mmcoke.files import read_checkpoint, write_text
from mmcoke.reporting.results import describe_file, versions

from .options import merge_options


def main(args: argparse.Namespace) -> None:
    cfg = read_config(args.config or config_in(args.work_dir))
    merge_options(cfg, args.cfg_options)
    checkpoint = args.checkpoint or last_in(args.work_dir)
    sources = cifar10_sources(args.data, download=args.download)
    options = dict(linear=not args.no_linear, batch_size=args.batch_size)
    record = scores_of_run(cfg, checkpoint, sources, **options)
    path = Path(args.out or Path(args.work_dir) / 'scores.json')
    write_text(path, json.dumps(record, indent=2) + '\n')
    show(record, Console())
    print(path)


def config_in(work_dir: str | Path) -> Path:
    """The config that a run has left in its work dir, the newest if there are several."""
    configs = sorted(Path(work_dir).glob('*.py'), key=lambda path: path.stat().st_mtime)
    if not configs:
        raise ValueError(f'There is no config in {work_dir}. Name it: --config FILE')
    return configs[-1]


def last_in(work_dir: str | Path) -> str:
    """The last checkpoint of a run."""
    checkpoint = checkpoint_to_resume(work_dir)
    if checkpoint is None:
        raise ValueError(f'There is no checkpoint in {work_dir}. Name one: --checkpoint FILE')
    return checkpoint


def scores_of_run(
    cfg: Config, checkpoint: str | Path, sources: Mapping[str, str | dict], **options
) -> dict:
    """Scores of a checkpoint, and what they were made with; the content of ``scores.json``.

    Args:
        cfg: that it was trained with.
        checkpoint: of any method of mmcoke.
        sources: of ``train`` and ``test``, see ``InMemoryImages``.
        **options: see :func:`~mmcoke.evaluation.protocol.protocol_scores`.

    Returns:
        ``scores``, as :func:`~mmcoke.evaluation.protocol.protocol_scores` gives them, and their
        origin.
    """
    init_default_scope('mmcoke')
    start = time.perf_counter()
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    network = load_frozen(cfg, checkpoint).to(device)
    datasets = {
        split: InMemoryImages(source, device=device, pipeline=pipeline_of(cfg))
        for split, source in sources.items()
    }
    check_channels(network.backbone, datasets['train'])
    found = protocol_scores(
        network, datasets['train'], datasets['test'], clusters_of(checkpoint), **options
    )
    meta = read_checkpoint(checkpoint, map_location='meta').get('meta', {})
    return dict(
        scores=found,
        protocol=PROTOCOL,
        config=str(cfg.filename),
        checkpoint=describe_file(checkpoint),
        epoch=meta.get('epoch'),
        num_images={split: len(dataset) for split, dataset in datasets.items()},
        device=torch.cuda.get_device_name() if device == 'cuda' else 'cpu',
        seconds=round(time.perf_counter() - start, 1),
        date=datetime.now(timezone.utc).date().isoformat(),
        versions=versions(),
    )


def check_channels(backbone: nn.Module, dataset: InMemoryImages) -> None:
    """ValueError if the images are not of the kind that the network was made for."""
    images, wanted = dataset.images, num_channels(backbone)
    found = images.shape[3] if images.ndim == 4 else 1
    if found != wanted:
        raise ValueError(
            f'The network takes images of {wanted} channels, but these have {found}: the run was '
            'trained on other data.'
        )


def pipeline_of(cfg: Config) -> list[dict]:
    """The transforms of the run's images in memory, which do not augment."""
    dataset = (cfg.get('train_dataloader') or {}).get('dataset') or {}
    return dataset.get('pipeline') or [dict(type='PackInputs')]


def show(record: dict, console: Console) -> None:
    """Print the scores, in percent."""
    scores = record['scores']
    table = Table('clusters', 'split', 'ACC', 'NMI', 'ARI', title=f'epoch {record["epoch"]}')
    for kind in ('head', 'kmeans'):
        for split, row in (scores[kind] or {}).items():
            if split != 'name':
                table.add_row(kind, split, *(f'{100 * row[x]:.1f}' for x in ('acc', 'nmi', 'ari')))
    console.print(table)
    knn = ', '.join(f'k = {k}: {100 * share:.1f}' for k, share in scores['knn'].items())
    linear = '' if scores['linear'] is None else f'; linear probe {100 * scores["linear"]:.1f}'
    console.print(f'kNN {knn}{linear} (%, test split; {record["seconds"]} s on {record["device"]})')
