"""Pre-train on handwritten digits, and see what the features are worth: tools/quickstart.py."""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import set_random_seed
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.cluster import KMeans
from torch import Tensor, nn

from mmcoke.datasets import InMemoryImages
from mmcoke.engine.checkpoint import saved_checkpoints
from mmcoke.engine.interruption import without_resume
from mmcoke.engine.launch import train
from mmcoke.evaluation import (
    clustering_scores,
    extract_features,
    knn_classify,
    linear_probe,
)
from mmcoke.files import write_text
from mmcoke.registry import MODELS
from mmcoke.reporting import report
from mmcoke.reporting.report import Picture
from mmcoke.reporting.results import write_results
from mmcoke.reporting.runs import read_runs

from .options import merge_options

COLUMNS = dict(knn='kNN', linear='linear', cluster_acc='cluster acc.', nmi='NMI', ari='ARI')
PROTOCOL = (
    'kNN (weighted, k = 20) and linear probe: fitted on the frozen features and labels of the '
    'training split, accuracy on the test split. Clusters: k-means with 10 clusters over all '
    '1,797 images, against the ten digits (Hungarian accuracy, NMI, ARI). No label was used in '
    'pre-training.'
)

UNTRAINED = dict(random_init='untrained network', pixels='pixels')

CAPTION = (
    'Random members of the ten clusters that k-means finds in the projections; a row is a cluster.'
)

UNSEEDED = ('SeLa', 'SwAV')
"""Methods whose clustering draws nothing at random."""


def main(args: argparse.Namespace) -> None:
    configs = load_configs(args)
    console = Console()
    init_default_scope('mmcoke')
    first = next(iter(configs.values()))
    splits = {split: digits(first, split) for split in ('train', 'test', 'all')}
    labels = {split: torch.from_numpy(data.labels) for split, data in splits.items()}

    models, seconds = {}, {}
    for name, cfg in configs.items():
        if args.all:
            console.print(f'{cfg.model.type}:')
        if not args.resume:
            make_room(cfg.work_dir)
        start = time.perf_counter()
        models[name] = train(cfg)
        seconds[name] = round(time.perf_counter() - start, 1)

    def features(network: nn.Module) -> Callable:
        return lambda split: extract_features(network, splits[split])

    jobs = {name: features(model) for name, model in models.items()} | dict(
        random_init=features(untrained(first)),
        pixels=lambda split: (pixels(splits[split]), pixels(splits[split])),
    )
    metrics, clusters = {}, {}
    for name, extract in track(jobs.items(), 'evaluating', console=console):
        metrics[name], clusters[name] = evaluate(extract, labels)
    metrics['train_seconds'] = round(sum(seconds.values()), 1)

    names = {name: cfg.model.type for name, cfg in configs.items()}
    names |= UNTRAINED
    path = Path(args.work_dir) / report.REPORT
    images = splits['all'].images
    pictures = [digit_picture(names[name], images, clusters[name]) for name in models]
    trained = ', '.join(f'{names[name]} {spent:.0f} s' for name, spent in seconds.items())
    about = f'{len(splits["train"]):,} images without labels, seed {args.seed}. Trained: {trained}.'
    write_page(path, args, metrics, names, pictures, about)
    write_text(path.with_name('metrics.json'), json.dumps(metrics, indent=2))
    show(metrics, names, console)
    console.print(f'Trained: {trained}. Numbers: {path.with_name("metrics.json")}')
    console.print(f'Pictures: {path}')


def load_configs(args: argparse.Namespace) -> dict[str, Config]:
    """Configs by method; with --all each has a folder of its own below the work dir."""
    if not args.all:
        cfg = load_config(args, args.config, args.work_dir)
        return {cfg.model.type.lower(): cfg}
    folder = Path(args.work_dir)
    return {name: load_config(args, path, folder / name) for name, path in args.recipes.items()}


def load_config(args: argparse.Namespace, path: str | Path, work_dir: str | Path) -> Config:
    cfg = Config.fromfile(path)
    cfg.work_dir = str(work_dir)
    cfg.resume = args.resume
    cfg.randomness.seed = args.seed
    if cfg.model.type not in UNSEEDED:
        cfg.model.clustering.seed = args.seed
    cfg.log_level = 'ERROR'  # the progress bar and the table say the rest
    cfg.custom_hooks.append(dict(type='ProgressHook'))
    cfg.default_hooks.pop('report', None)  # there is one page about all of it, with the scores
    merge_options(cfg, args.cfg_options)
    return cfg


MARK = '.quickstart'
"""File that says whose checkpoints lie in a folder."""


def make_room(work_dir: str | Path) -> None:
    """Remove the checkpoints of an earlier quickstart; those of another training stay, and stop us.

    Repeated without ``--resume``, the quickstart starts from the beginning.
    """
    mark = Path(work_dir) / MARK
    saved = saved_checkpoints(work_dir)
    if mark.exists():
        for path in saved:
            path.unlink()
        (mark.parent / 'last_checkpoint').unlink(missing_ok=True)
    elif not saved:
        write_text(mark, '')


def digits(cfg: Config, split: str) -> InMemoryImages:
    return InMemoryImages('digits', split, pipeline=cfg.pipeline)


def pixels(dataset: InMemoryImages) -> Tensor:
    return torch.from_numpy(dataset.images).flatten(1).float() / 255


def evaluate(extract: Callable[[str], tuple[Tensor, Tensor]], labels: dict[str, Tensor]) -> tuple:
    """Scores of frozen features, and the clusters found in them.

    Args:
        extract: gives, for a split, features for classification and features for clustering.
        labels: class of each image, by split.
    """
    (train, _), (test, _), (_, everything) = map(extract, ('train', 'test', 'all'))
    knn = knn_classify(train, labels['train'], test, k=20, temperature=0.07)
    linear = linear_probe(train, labels['train'], test)
    clusters = KMeans(10, n_init=10, random_state=0).fit_predict(everything.numpy())
    agreement = clustering_scores(clusters, labels['all'])
    scores = dict(
        knn=(knn == labels['test']).float().mean().item(),
        linear=(linear == labels['test']).float().mean().item(),
        cluster_acc=agreement['acc'],
        nmi=agreement['nmi'],
        ari=agreement['ari'],
    )
    return {name: round(score, 4) for name, score in scores.items()}, clusters


def untrained(cfg: Config) -> nn.Module:
    """The network that training starts from."""
    set_random_seed(cfg.randomness.seed)
    with torch.random.fork_rng():
        model = MODELS.build(cfg.model)
        model.init_weights()
    return model


def show(metrics: dict, names: dict[str, str], console: Console) -> None:
    table = Table('features', *COLUMNS.values(), title='Frozen features of the digits')
    for key, name in names.items():
        table.add_row(name, *(f'{metrics[key][column]:.3f}' for column in COLUMNS))
    console.print(table)


def write_page(
    path: Path,
    args: argparse.Namespace,
    metrics: dict,
    names: dict[str, str],
    pictures: list[Picture],
    about: str,
) -> None:
    """The table, the curves of all runs beside each other, and pictures of clusters.

    Args:
        path: of the page.
        args: of the command.
        metrics: scores by features, see :func:`evaluate`.
        names: what these are called; the untrained ones are the last.
        pictures: of clusters.
        about: what was trained on, and how long.
    """
    trained = list(names)[: -len(UNTRAINED)]
    folders = [Path(args.work_dir) / name if args.all else Path(args.work_dir) for name in trained]
    runs = read_runs(folders)
    runs = [
        run._replace(name=names[name], results=[]) for run, name in zip(runs, trained, strict=True)
    ]
    scores = [dict(features=name) | metrics[key] for key, name in names.items()]
    write_results(args.work_dir, 'frozen_features', scores, protocol=PROTOCOL)
    rows = [[name, *(f'{metrics[key][c]:.3f}' for c in COLUMNS)] for key, name in names.items()]
    columns = ['features', *COLUMNS.values()]
    table = report.Table('Frozen features', columns, rows, PROTOCOL, best=True)
    extras = report.Extras(
        title=f'{", ".join(names[name] for name in trained)} on handwritten digits',
        summary=about,
        tables=[table],
        pictures=pictures,
        command=shlex.join(['bash', 'tools/quickstart.sh', *without_resume(sys.argv[1:])]),
    )
    report.write_report(path, runs, extras=extras)


def digit_picture(name: str, images: np.ndarray, label: np.ndarray) -> Picture:
    """Members of the clusters of a network, three CSS pixels per pixel."""
    uri, width = report.cluster_picture(images, label)
    alt = f'Digits by the cluster that {name} finds them in: ten rows'
    return Picture(name, uri, 3 * width, alt, CAPTION)
