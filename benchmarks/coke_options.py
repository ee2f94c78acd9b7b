"""What CoKe's options change, on digits: an EMA target, repulsion of centers, nested heads.

Trains the recipes of one view and of two with each option and seed, for fewer epochs than the
recipes have, and prints the medians. Alternating, so that all meet the same machine:

    OMP_NUM_THREADS=1 python benchmarks/coke_options.py --seeds 0 1 2
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from _timing import machine
from mmengine.config import Config
from mmengine.registry import init_default_scope
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mmcoke.cli.quickstart import digits, evaluate
from mmcoke.engine.launch import train
from mmcoke.evaluation import extract_features
from mmcoke.files import write_text

RECIPES = Path(__file__).resolve().parent.parent / 'configs/selfsup/coke'
ONE_VIEW, TWO_VIEWS = 'coke_tiny_1xb64_digits.py', 'coke_tiny_1xb64-2view_digits.py'
MOMENTUM = {'model.type': 'MomentumCoKe', 'model.momentum': 0.99}
NESTED = {'model.head.type': 'NestedCoKeHead', 'model.clustering.dim': [16, 32, 64]}
RUNS = {
    'one view': (ONE_VIEW, {}),
    'one view, EMA target 0.99': (ONE_VIEW, MOMENTUM),
    'one view, repulsion 0.1': (ONE_VIEW, {'model.clustering.repulsion': 0.1}),
    'one view, repulsion 0.5': (ONE_VIEW, {'model.clustering.repulsion': 0.5}),
    'one view, nested 16, 32, 64': (ONE_VIEW, NESTED),
    'two views': (TWO_VIEWS, {}),
    'two views, EMA target 0.99': (TWO_VIEWS, MOMENTUM),
}
SCORES = dict(cluster_acc='acc', nmi='NMI', ari='ARI', knn='kNN', linear='linear')


def run(recipe: str, options: dict, seed: int, epochs: int) -> dict[str, float]:
    """Scores of the quickstart for one training, and its CPU seconds."""
    cfg = Config.fromfile(RECIPES / recipe)
    cfg.default_hooks.pop('report', None)  # its time is not that of training
    cfg.merge_from_dict(options | {'train_cfg.max_epochs': epochs})
    cfg.randomness.seed = cfg.model.clustering.seed = seed
    cfg.default_hooks.checkpoint.interval, cfg.log_level = epochs + 1, 'ERROR'
    splits = {split: digits(cfg, split) for split in ('train', 'test', 'all')}
    labels = {split: torch.from_numpy(data.labels) for split, data in splits.items()}
    with tempfile.TemporaryDirectory() as folder:
        cfg.work_dir = cfg.experiment_name = folder
        start = time.process_time()
        model = train(cfg)
    seconds = time.process_time() - start
    scores, _ = evaluate(lambda split: extract_features(model, splits[split]), labels)
    return scores | dict(seconds=seconds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--epochs', type=int, default=40, help='of each training (%(default)s)')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the figures here, too')
    args = parser.parse_args()
    init_default_scope('mmcoke')

    jobs = [(name, seed) for seed in args.seeds for name in RUNS]
    results = {name: [] for name in RUNS}
    for name, seed in track(jobs, 'training'):
        results[name].append(run(*RUNS[name], seed, args.epochs))

    seeds = ', '.join(map(str, args.seeds))
    title = f'Digits, {args.epochs} epochs, medians of seeds {seeds} (acc of each)'
    table = Table('', *SCORES.values(), 'CPU s', title=title)
    for name, scores in results.items():
        medians = {key: statistics.median(x[key] for x in scores) for key in scores[0]}
        each = ', '.join(f'{x["cluster_acc"]:.3f}' for x in scores)
        cells = [f'{medians[key]:.3f}' for key in SCORES]
        table.add_row(name, f'{cells[0]} ({each})', *cells[1:], f'{medians["seconds"]:.0f}')
    Console().print(table)
    if args.json:
        content = dict(seeds=args.seeds, epochs=args.epochs, machine=machine(), results=results)
        write_text(args.json, json.dumps(content, indent=2) + '\n')


if __name__ == '__main__':
    main()
