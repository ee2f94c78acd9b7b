"""Why CoKe starts slowly, on digits: labels, churn, rank and kNN of the first epochs.

Trains the recipes of one view and of two for a few epochs, as published and with one thing changed
at a time, and prints what each epoch was like:

    OMP_NUM_THREADS=1 python benchmarks/slow_start.py --seeds 0 1 2
    OMP_NUM_THREADS=1 python benchmarks/slow_start.py --variants published 'zero 4' --epochs 30

Purity compares labels with the digits: a diagnosis, of which training sees nothing.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import mean

import torch
from _timing import machine
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.nn.functional import normalize

from mmcoke.cli.quickstart import digits
from mmcoke.engine.hooks.labeler_hook import mean_loss
from mmcoke.engine.launch import train
from mmcoke.engine.run_length import set_epochs
from mmcoke.evaluation import extract_features, knn_classify
from mmcoke.files import write_text
from mmcoke.models.algorithms.base import explained_batch_norm, sample_indices
from mmcoke.models.algorithms.coke import CoKe, count_full_views
from mmcoke.registry import HOOKS, MODELS

RECIPES = Path(__file__).resolve().parent.parent / 'configs/selfsup/coke'
VIEWS = {1: 'coke_tiny_1xb64_digits.py', 2: 'coke_tiny_1xb64-2view_digits.py'}


def trial(**settings) -> dict:
    return {'model.type': 'TrialCoKe', 'model.trial': settings}


def instance(epochs: int) -> dict:
    """NT-Xent that has faded out after so many epochs at a rate above 0."""
    return {'model.head.type': 'InstanceCoKeHead', 'model.head.instance_epochs': epochs + 1}


def schedule(**settings) -> dict:
    return {f'param_scheduler.0.{name}': value for name, value in settings.items()}


VARIANTS = {
    'published': {},
    'rate 0 for 4 epochs': dict(zero=4),
    'k-means first': dict(kmeans=True),
    'warm-up 5': schedule(warmup=5),
    'warm-up 10': schedule(warmup=10),
    'no momentum from rate 0': trial(clear=True),
    'no momentum from rate 0, warm-up 5': trial(clear=True) | schedule(warmup=5),
    'same batch, warm-up 5': trial(fresh_epochs=99) | schedule(warmup=5),
    'k-means first, warm-up 5': dict(kmeans=True) | schedule(warmup=5),
    'rate / 4': {'optim_wrapper.optimizer.lr': 0.05},
    'publish 5, 3 epochs': trial(publish=5, publish_epochs=4),
    'publish 5': trial(publish=5, publish_epochs=99),
    'publish 1': trial(publish=1, publish_epochs=99),
    'same batch, 3 epochs': trial(fresh_epochs=4),
    'same batch': trial(fresh_epochs=99),
    'same batch, publish 1': trial(fresh_epochs=99, publish=1, publish_epochs=99),
    'EMA target 0.99': {'model.type': 'MomentumCoKe', 'model.momentum': 0.99},
    'dual_lr 0.5': {'model.clustering.dual_lr': 0.5},
    'dual_lr 8': {'model.clustering.dual_lr': 8.0},
}
TWO_VIEWS = {
    'label weight 0': {'model.head.label_weight': 0.0},
    'label weight 1': {'model.head.label_weight': 1.0},
    'label weight from 0, 3 epochs': trial(rise_epochs=3),
    'instance, 3 epochs': instance(3),
    'instance, 10 epochs': instance(10),
    'instance, 5 epochs, warm-up 5': instance(5) | schedule(warmup=5),
    'k-means first, instance, 5 epochs, warm-up 5': dict(kmeans=True)
    | instance(5)
    | schedule(warmup=5),
}


@MODELS.register_module()
class TrialCoKe(CoKe):
    """CoKe with one change of its start."""

    hook = 'CoKeHook'

    def __init__(self, *args, trial: dict, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.trial, self.epoch = trial, 0

    def loss(self, inputs, data_samples) -> dict[str, Tensor]:
        views = [inputs] if isinstance(inputs, Tensor) else inputs
        num_full = count_full_views(views)
        with explained_batch_norm():
            projections = [self.project(view) for view in views]
            predictions = [self.head(x_nD) for x_nD in projections]
        idx_n = sample_indices(data_samples, views[0].device)
        targets = self._targets(projections[:num_full], idx_n)
        if self.epoch < self.trial.get('fresh_epochs', 0):
            targets = [head.newest.read(idx_n) for head in self.labelers]
        return self.head.loss(projections, predictions, self.labelers.centers, targets)


@HOOKS.register_module()
class TrialHook(Hook):
    """Tells the model where it is, and does what is done on schedule."""

    def __init__(self, label_weight: float, zero: int) -> None:
        self.label_weight, self.zero = label_weight, zero

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        model = runner.model
        if not isinstance(model, TrialCoKe):
            return
        if model.trial.get('clear') and runner.epoch == self.zero and not batch_idx:
            runner.optim_wrapper.optimizer.state.clear()
        model.epoch = runner.epoch
        if rise := model.trial.get('rise_epochs'):
            progress = max(0.0, runner.iter / len(runner.train_dataloader) - self.zero)
            model.head.label_weight = self.label_weight * min(1.0, progress / rise)
        every = model.trial.get('publish')
        if every and runner.epoch < model.trial['publish_epochs'] and batch_idx % every == 0:
            for head in model.labelers:
                head.kmeans.centers.copy_(head.kmeans.running)


@HOOKS.register_module()
class StartProbe(Hook):
    """Measures the network and the labels after each epoch."""

    records: list[dict] = []
    data: dict = {}

    def before_train(self, runner: Runner) -> None:
        type(self).records = [dict(epoch=0, **features_scores(runner.model, self.data))]
        self.before = None

    def after_train_epoch(self, runner: Runner) -> None:
        model, target = runner.model, self.data['labels']['train']
        labels = [head.newest.label.long().clone() for head in model.labelers]
        record = dict(epoch=runner.epoch + 1, loss=mean_loss(runner))
        record['purity'] = mean(purity(label, target) for label in labels)
        if self.before is not None:
            changed = [
                (x != y).float().mean().item() for x, y in zip(self.before, labels, strict=True)
            ]
            record['churn'] = mean(changed)
        self.before = labels
        self.records.append(record | features_scores(model, self.data))


def features_scores(model, data: dict) -> dict[str, float]:
    """kNN accuracy, effective rank and spread of features."""
    x = {split: extract_features(model, data['splits'][split]) for split in ('train', 'test')}
    (train, projected), (test, _) = x['train'], x['test']
    found = knn_classify(train, data['labels']['train'], test, k=20)
    knn = (found == data['labels']['test']).float().mean().item()
    std = normalize(train, dim=1).std(0).mean().item() * train.shape[1] ** 0.5
    return dict(
        knn=knn,
        rank=effective_rank(train),
        rank_projection=effective_rank(projected),
        std=std,
        std_projection=projected.std(0).mean().item() * projected.shape[1] ** 0.5,
    )


def purity(label_A: Tensor, target_A: Tensor) -> float:
    """Share of samples that are of the class most frequent in their cluster."""
    kept = label_A >= 0
    pairs = label_A[kept] * 10 + target_A[kept]
    counts = torch.bincount(pairs, minlength=10 * int(label_A.max() + 1)).view(-1, 10)
    return counts.amax(1).sum().item() / int(kept.sum())


def effective_rank(x_AD: Tensor) -> float:
    """exp of the entropy of the centered features' normalized singular values."""
    s = torch.linalg.svdvals(x_AD - x_AD.mean(0))
    p = s / s.sum()
    return torch.special.entr(p).sum().exp().item()


def run(views: int, options: dict, seed: int, epochs: int) -> dict:
    """One training: what each epoch was like, and CPU seconds."""
    options = dict(options)
    cfg = Config.fromfile(RECIPES / VIEWS[views])
    cfg.default_hooks.pop('report', None)  # its time is not that of training
    set_epochs(cfg, epochs)
    zero, first = options.pop('zero', 1), options.pop('kmeans', False)
    cfg.param_scheduler[0].update(zero=zero, warmup=1)  # the published 10 of 150 ... 1000 epochs
    cfg.train_cfg.max_epochs = epochs + zero
    cfg.merge_from_dict(options)
    cfg.randomness.seed = cfg.model.clustering.seed = seed
    cfg.default_hooks.checkpoint.interval, cfg.log_level = 10 * epochs, 'ERROR'
    weight = cfg.model.head.get('label_weight', 1.0)
    if first:
        cfg.custom_hooks.append(dict(type='KMeansStartHook', pipeline=cfg.pipeline, epoch=zero - 1))
    cfg.custom_hooks += [
        dict(type='TrialHook', label_weight=weight, zero=zero),
        dict(type='StartProbe'),
    ]
    splits = {split: digits(cfg, split) for split in ('train', 'test')}
    labels = {split: torch.from_numpy(data.labels) for split, data in splits.items()}
    StartProbe.data = dict(splits=splits, labels=labels)
    with tempfile.TemporaryDirectory() as folder:
        cfg.work_dir = cfg.experiment_name = folder
        start = time.process_time()
        train(cfg)
    return dict(epochs=StartProbe.records, seconds=time.process_time() - start)


def table(name: str, runs: list[dict]) -> Table:
    """Means over the seeds, a row per epoch."""
    keys = ('knn', 'purity', 'churn', 'loss', 'rank', 'rank_projection', 'std', 'std_projection')
    title = f'{name}: {mean(run["seconds"] for run in runs):.0f} CPU s'
    out = Table('epoch', *keys, 'kNN of each', title=title)
    for records in zip(*(run['epochs'] for run in runs), strict=True):
        cells = [
            f'{mean(x[key] for x in records):.3f}' if key in records[0] else '' for key in keys
        ]
        each = ' '.join(f'{x["knn"]:.3f}' for x in records)
        out.add_row(str(records[0]['epoch']), *cells, each)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--epochs', type=int, default=10, help='at a rate above 0 (%(default)s)')
    parser.add_argument('--views', type=int, nargs='+', choices=(1, 2), default=[2, 1])
    parser.add_argument('--variants', nargs='+', help='names of some (all)')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the figures here, too')
    args = parser.parse_args()
    init_default_scope('mmcoke')
    jobs = {
        (views, name): options
        for views in args.views
        for name, options in (VARIANTS | (TWO_VIEWS if views == 2 else {})).items()
        if not args.variants or name in args.variants
    }
    results = {}
    for (views, name), options in track(jobs.items(), 'training'):
        runs = [run(views, options, seed, args.epochs) for seed in args.seeds]
        name = f'{"one view" if views == 1 else "two views"}, {name}'
        results[name] = runs
        Console(width=140).print(table(name, runs))
        if args.json:
            content = dict(seeds=args.seeds, epochs=args.epochs, machine=machine(), results=results)
            write_text(args.json, json.dumps(content, indent=2) + '\n')


if __name__ == '__main__':
    main()
