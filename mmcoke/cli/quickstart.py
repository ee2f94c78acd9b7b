"""Pre-train on handwritten digits, and see what the features are worth: tools/quickstart.py."""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

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
from mmcoke.engine.hooks.coke_hook import curve_names
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

from .options import merge_options

COLUMNS = dict(knn='kNN', linear='linear', cluster_acc='cluster acc.', nmi='NMI', ari='ARI')
PROTOCOL = (
    'kNN (weighted, k = 20) and linear probe: fitted on the frozen features and labels of the '
    'training split, accuracy on the test split. Clusters: k-means with 10 clusters over all '
    '1,797 images, against the ten digits (Hungarian accuracy, NMI, ARI). No label was used in '
    'pre-training.'
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
    names |= dict(random_init='untrained network', pixels='pixels')
    path = Path(args.work_dir) / 'report.html'
    images = splits['all'].images
    runs = [
        describe_run(cfg, models[name], seconds[name], clusters[name], images)
        for name, cfg in configs.items()
    ]
    write_html(path, metrics, names, runs, args, len(splits['train']))
    write_text(path.with_name('metrics.json'), json.dumps(metrics, indent=2))
    show(metrics, names, console)
    trained = ', '.join(f'{names[name]} {spent:.0f} s' for name, spent in seconds.items())
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


def describe_run(cfg: Config, model: nn.Module, seconds: float, clusters, images) -> dict:
    """What the page shows of one run."""
    curves = report.read_scalars(cfg.work_dir)
    method = cfg.model.type
    # As for methods with a single clustering.
    one = isinstance(model.labelers, nn.ModuleList) and method != 'SeLa'
    names = [method.lower()] if one else curve_names(model.labelers, method.lower())
    clusterings = [
        (name, len(labeler.sizes()), getattr(labeler, 'min_size', 0))
        for name, labeler in zip(names, model.labelers, strict=True)
    ]
    resumed = ' (resumed: the time is of the last part)' if cfg.resume else ''
    return dict(
        name=method,
        summary=f'{cfg.train_cfg.max_epochs} epochs in {seconds:.0f} s{resumed}.',
        loss_chart=report.loss_chart(curves[f'{method.lower()}/loss']),
        size_chart=report.size_chart(curves, clusterings),
        clusters=report.cluster_picture(images, clusters),
    )


def write_html(path: Path, metrics: dict, names: dict, runs: list[dict], args, num: int) -> None:
    report.write_report(
        path,
        title=f'{", ".join(run["name"] for run in runs)} on handwritten digits',
        summary=f'Pre-trained on {num} images without labels; seed {args.seed}.',
        columns=COLUMNS,
        rows=[dict(name=name, scores=metrics[key]) for key, name in names.items()],
        protocol=PROTOCOL,
        runs=runs,
        clusters_caption='Random members of the ten clusters that k-means finds in the '
        'projections; a row is a cluster.',
        command=f'bash tools/quickstart.sh{" --all" if args.all else ""}',
    )
