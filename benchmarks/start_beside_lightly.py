"""The first minutes on CIFAR-10: ours beside lightly's SimCLR and SwAV, kNN over time.

Network, images, augmentation, batches and loop are the same for all; head, loss and optimizer are
the method's. The clock is CPU time of training alone, of one thread; ``--wall`` takes wall-clock
time, for threads that have their cores to themselves. With lightly installed::

    export OMP_NUM_THREADS=1
    python benchmarks/start_beside_lightly.py --data data/cifar10 --methods lightly-simclr
    python benchmarks/start_beside_lightly.py --data data/cifar10 --methods coke-2view-mended
    python benchmarks/start_beside_lightly.py --plot docs/images/start_beside_lightly.svg

Start two at once, so that both meet the same machine. A run that was stopped goes on; a finished
one is left as it is. Both are in ``work_dirs/start``, by method.
"""

import argparse
import json
import math
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import mean

import torch
from _timing import machine
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain.models import BaseSelfSupervisor
from rich.console import Console
from rich.table import Table
from slow_start import effective_rank, purity
from torch import Tensor
from torch.nn.functional import normalize

from mmcoke.cli.reproduce_cifar10 import knn_curve, knn_probe, narrow
from mmcoke.datasets.cifar10 import cifar10_sources, write_part
from mmcoke.engine.checkpoint import saved_checkpoints
from mmcoke.engine.hooks import KNNHook
from mmcoke.engine.launch import train
from mmcoke.engine.run_length import set_epochs
from mmcoke.files import write_text, write_whole
from mmcoke.registry import HOOKS, MODELS
from mmcoke.reporting.report import read_scalars

RECIPES = Path(__file__).resolve().parent.parent / 'configs/selfsup'
TWO_VIEWS = 'coke/coke_r18_1xb128-2view_cifar10.py'
PLAIN = [dict(type='PackInputs')]
HID_CHANNELS, OUT_CHANNELS = 512, 128

WARM_UP = {'param_scheduler.0.warmup': 5}
INSTANCE = {'model.head.type': 'InstanceCoKeHead', 'model.head.instance_epochs': 6}
CLUSTERS_100 = {'model.clustering.num_clusters': 100}  # 100 images each, as in the recipes
CLUSTERS_512 = {'model.clustering.num_clusters': 512}  # as lightly's
HELD = {
    'param_scheduler.0.zero': 0,
    'param_scheduler.0.warmup': 1,
    'model.head.type': 'InstanceCoKeHead',
    'model.head.instance_epochs': 20,
    'kmeans': True,
}
AS_SIMCLR = {'optim_wrapper.optimizer.weight_decay': 5e-4, 'model.neck.with_last_bn': True}
"""What else is different in lightly's SimCLR."""

DECOUPLED = {'model.head.instance_decoupled': True, 'model.head.instance_epochs': 60}

FEW = {'model.clustering.dual_lr': 0.5}
"""By the rule for eta: the recipes have 0.1 for 50,000 images."""

OURS = {
    'coke-2view': (TWO_VIEWS, WARM_UP),
    'coke-2view-mended': (TWO_VIEWS, WARM_UP | INSTANCE | dict(kmeans=True)),
    'coke-2view-held': (TWO_VIEWS, HELD),
    'coke-2view-held-eta0.5': (TWO_VIEWS, HELD | FEW),
    'coke-2view-held-decay': (TWO_VIEWS, HELD | FEW | AS_SIMCLR),
    'coke-2view-held-decoupled': (TWO_VIEWS, HELD | FEW | AS_SIMCLR | DECOUPLED),
    'coke': ('coke/coke_r18_1xb128_cifar10.py', {}),
    'coke-eta0.5': ('coke/coke_r18_1xb128_cifar10.py', FEW),
    'coke-mended': ('coke/coke_r18_1xb128_cifar10.py', WARM_UP),
    'secu': ('secu/secu_r18_1xb128_cifar10.py', {}),
    'secu-eta0.5': ('secu/secu_r18_1xb128_cifar10.py', FEW),
    'swav': ('swav/swav_r18_1xb128_cifar10.py', CLUSTERS_512),
    'deepclusterv2': ('deepclusterv2/deepclusterv2_r18_1xb128_cifar10.py', {}),
    'deepcluster': ('deepcluster/deepcluster_r18_1xb128_cifar10.py', CLUSTERS_100),
    'odc': ('odc/odc_r18_1xb128_cifar10.py', CLUSTERS_100),
}
"""Recipes, and what is changed."""

SGD = dict(type='SGD', momentum=0.9, weight_decay=5e-4)
ADAM = dict(type='Adam', lr=1e-3, weight_decay=1e-6)
SIMCLR, SWAV = dict(type='LightlySimCLR', temperature=0.2), dict(type='LightlySwAV')
LIGHTLYS = {
    'lightly-simclr': (SIMCLR, dict(SGD, lr=0.06)),
    'lightly-simclr-lr0.2': (SIMCLR, dict(SGD, lr=0.2)),
    'lightly-swav': (SWAV, ADAM),
    'lightly-swav-sgd': (SWAV, dict(SGD, lr=0.06)),
}
"""Model and optimizer: those of lightly's benchmarks on CIFAR-10 for a batch of 128, and others."""


class LightlyMethod(BaseSelfSupervisor):
    """Backbone and projection head by lightly; each view is passed on its own."""

    def forward(self, inputs, data_samples=None, mode='tensor', sample_idx=None):
        return super().forward(inputs, data_samples, mode)

    def project(self, view: Tensor) -> Tensor:
        return self.projector(self.backbone(view)[-1].mean((2, 3)))


@MODELS.register_module()
class LightlySimCLR(LightlyMethod):
    """Lightly's SimCLR."""

    def __init__(self, *args, channels: int, temperature: float, **kwargs) -> None:
        from lightly.loss import NTXentLoss
        from lightly.models.modules import SimCLRProjectionHead

        super().__init__(*args, **kwargs)
        self.projector = SimCLRProjectionHead(channels, HID_CHANNELS, OUT_CHANNELS)
        self.criterion = NTXentLoss(temperature=temperature)

    def loss(self, inputs: list[Tensor], data_samples: object) -> dict[str, Tensor]:
        return dict(loss=self.criterion(*map(self.project, inputs)))


@MODELS.register_module()
class LightlySwAV(LightlyMethod):
    """Lightly's SwAV with two views, without a queue; prototypes rest for the first steps."""

    def __init__(self, *args, channels: int, num_prototypes: int, frozen_steps: int, **kwargs):
        from lightly.loss import SwaVLoss
        from lightly.models.modules import SwaVProjectionHead, SwaVPrototypes

        super().__init__(*args, **kwargs)
        self.projector = SwaVProjectionHead(channels, HID_CHANNELS, OUT_CHANNELS)
        self.prototypes = SwaVPrototypes(OUT_CHANNELS, num_prototypes, frozen_steps)
        self.criterion = SwaVLoss(sinkhorn_epsilon=0.05)
        self.register_buffer('step', torch.zeros((), dtype=torch.int64))

    def loss(self, inputs: list[Tensor], data_samples: object) -> dict[str, Tensor]:
        self.prototypes.normalize()
        units = [normalize(self.project(view), dim=1) for view in inputs]
        logits = [self.prototypes(unit, int(self.step)) for unit in units]
        self.step += 1
        return dict(loss=self.criterion(logits, []))


@HOOKS.register_module()
class StartKNNHook(KNNHook):
    """kNN over time; beside it, rank of the features and purity of the labels."""

    def __init__(self, *args, wall: bool, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.clock = time.perf_counter if wall else time.process_time

    def predict(self, x_train: Tensor, y_train: Tensor, x_test: Tensor) -> Tensor:
        self.rank = effective_rank(x_train)
        return super().predict(x_train, y_train, x_test)

    def accuracy(self, runner: Runner) -> float:
        accuracy, labelers = super().accuracy(runner), getattr(runner.model, 'labelers', [])
        more = {'start/rank': self.rank}
        tables = [labeler.newest.label.long() for labeler in labelers if hasattr(labeler, 'newest')]
        if tables:
            more['start/purity'] = mean(purity(label, self._sets[0][1]) for label in tables)
        runner.visualizer.add_scalars(more, step=runner.epoch + 1)
        return accuracy


def config(name: str, args: argparse.Namespace, sources: dict) -> Config:
    """The config of one method."""
    if name in OURS:
        recipe, options = OURS[name]
        cfg = our_config(RECIPES / recipe, dict(options), args.epochs)
    else:
        cfg = lightly_config(*LIGHTLYS[name], args)
    narrow(cfg, args.width)
    cfg.work_dir = cfg.experiment_name = str(args.work_dir / name)
    cfg.resume, cfg.log_level = bool(saved_checkpoints(args.work_dir / name)), 'ERROR'
    cfg.randomness.seed = args.seed
    cfg.default_hooks.checkpoint.update(interval=1, max_keep_ckpts=1)
    cfg.default_hooks.pop('report', None)  # its time is not that of training
    cfg.train_dataloader.dataset.source = sources['train']
    probe = dict(knn_probe(cfg, sources, 1), type='StartKNNHook', wall=args.wall)
    cfg.custom_hooks.append(probe)
    return cfg


def our_config(recipe: Path, options: dict, epochs: int) -> Config:
    """A recipe in so many passes over the images, that at rate 0 among them."""
    cfg = Config.fromfile(recipe)
    set_epochs(cfg, epochs - cfg.param_scheduler[0].zero)
    if options.pop('kmeans', False):
        cfg.custom_hooks.append(dict(type='KMeansStartHook', pipeline=PLAIN))
    cfg.merge_from_dict(options)
    return cfg


def lightly_config(model: dict, optimizer: dict, args: argparse.Namespace) -> Config:
    """Lightly's head and loss in the recipe of CoKe with two views."""
    cfg = Config.fromfile(RECIPES / TWO_VIEWS)
    shared = {key: cfg.model[key] for key in ('backbone', 'data_preprocessor')}
    cfg.model = dict(model, channels=8 * args.width, **shared)
    if model is SWAV:
        steps = args.num_images // cfg.train_dataloader.batch_size  # the first epoch
        cfg.model.update(num_prototypes=512, frozen_steps=steps)
    cfg.custom_hooks = []
    del cfg.default_hooks.replica_check, cfg.default_hooks.cluster_monitor  # no labelers
    cfg.optim_wrapper.optimizer = optimizer
    scheduler = dict(type='WarmupCosineLR', zero=0, warmup=1, convert_to_iter_based=True)
    cfg.param_scheduler, cfg.train_cfg = [scheduler], dict(max_epochs=args.epochs, by_epoch=True)
    return cfg


def run(name: str, args: argparse.Namespace, sources: dict) -> None:
    """Train a method, or go on; ``record.json`` in its folder says that it is done."""
    folder = args.work_dir / name
    if not (folder / 'record.json').is_file():
        train(config(name, args, sources))
        write_text(folder / 'record.json', json.dumps(dict(machine=machine(), seed=args.seed)))


def curves(work_dir: Path) -> dict[str, list]:
    """Epoch, seconds, accuracy of each method that has begun."""
    found = {
        name: knn_curve(work_dir / name)
        for name in (*LIGHTLYS, *OURS)
        if any((work_dir / name).rglob('scalars.json'))
    }
    return {name: curve for name, curve in found.items() if curve}


def table(found: dict[str, list], work_dir: Path) -> Table:
    """The last passes, and of more than ten, each so many, that they fit on a line."""
    last = max(epoch for curve in found.values() for epoch, _, _ in curve)
    shown = sorted(range(last, 0, -math.ceil(last / 10)))
    out = Table('method', *map(str, shown), 'minutes')
    for name, curve in found.items():
        share = {epoch: f'{share:.3f}' for epoch, _, share in curve}
        cells = [share.get(epoch, '') for epoch in shown]
        out.add_row(name, *cells, f'{curve[-1][1] / 60:.1f}')
        more = read_scalars(work_dir / name)
        for key in ('start/rank', 'start/purity'):
            if key in more:
                values = {epoch: f'{value:.3g}' for epoch, value in more[key]}
                out.add_row(f'  {key[6:]}', *(values.get(epoch, '') for epoch in shown))
    return out


def plot(found: dict[str, list], path: Path) -> None:
    """kNN over minutes of training."""
    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    for number, (name, curve) in enumerate(found.items()):
        minutes = [seconds / 60 for _, seconds, _ in curve]
        dashes = '--' if name in LIGHTLYS else '-'
        axes.plot(
            minutes,
            [100 * x for _, _, x in curve],
            dashes,
            marker='o',
            ms=3,
            lw=1.2,
            color=f'C{number}',
            label=name,
        )
    axes.set(xlabel='minutes of training', ylabel='kNN accuracy, k = 20 (%)')
    axes.set_xlim(left=0)
    axes.legend(frameon=False, fontsize='small')
    figure.tight_layout()
    write_whole(path, lambda part: figure.savefig(part, format='svg'))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--methods', nargs='*', choices=(*OURS, *LIGHTLYS), default=[])
    parser.add_argument('--data', default='data/cifar10', help='(%(default)s)')
    parser.add_argument('--num-images', type=int, default=10_000, help='(%(default)s)')
    parser.add_argument('--width', type=int, default=16, help='of the stem, >= 8 (%(default)s)')
    parser.add_argument(
        '--epochs', type=int, default=10, help='passes over the images (%(default)s)'
    )
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--wall', action='store_true', help='wall-clock time, not CPU time')
    parser.add_argument('--work-dir', type=Path, default='work_dirs/start')
    parser.add_argument('--resume', action='store_true', help='as without: runs always go on')
    parser.add_argument('--plot', type=Path, metavar='FILE', help='draw all that is there, as SVG')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write all that is there')
    args = parser.parse_args()
    if args.width < 8:
        parser.error('--width must be at least 8 (oneDNN, issue 6035)')
    sources = dict(cifar10_sources(args.data, download=False))
    part = args.work_dir / f'train_{args.num_images}.npz'
    if not part.is_file():
        part.parent.mkdir(parents=True, exist_ok=True)
        write_part(sources['train'], args.num_images, part)
    sources['train'] = str(part)
    if set(args.methods) & set(LIGHTLYS) and find_spec('lightly') is None:
        parser.error('lightly is not installed: pip install --no-deps lightly==1.6.0')
    for name in args.methods:
        run(name, args, sources)
    found = curves(args.work_dir)
    if not found:
        parser.error(f'{args.work_dir} holds no curve yet: give --methods')
    Console(width=150).print(table(found, args.work_dir))
    if args.plot:
        plot(found, args.plot)
    if args.json:
        write_text(args.json, json.dumps(dict(machine=machine(), curves=found), indent=1) + '\n')


if __name__ == '__main__':
    main()
