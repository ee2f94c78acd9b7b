"""The comparison on CIFAR-10: tools/reproduce_cifar10.py."""

import argparse
import gc
import json
import sys
import traceback
from collections.abc import Iterator, Mapping
from functools import reduce
from operator import getitem
from pathlib import Path
from statistics import mean

import numpy as np
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.runner import set_random_seed
from rich.console import Console

from mmcoke.datasets.cifar10 import cifar10_sources, save_npz, write_part
from mmcoke.datasets.in_memory import load_split
from mmcoke.engine.checkpoint import saved_checkpoints
from mmcoke.engine.launch import train
from mmcoke.engine.run_length import set_epochs
from mmcoke.evaluation.svm import digest
from mmcoke.features.backbones import scope_of
from mmcoke.files import read_json, save_torch, write_text, write_whole
from mmcoke.registry import MODELS
from mmcoke.reporting.comparison import comparison_table, write_curves
from mmcoke.reporting.report import read_scalars
from mmcoke.reporting.results import versions

from .misspelt import explain_misspelt
from .options import merge_options
from .quickstart import UNSEEDED
from .scores import last_in, scores_of_run

UNTRAINED = 'untrained'
"""Row of the table: the network as the first of the methods starts from."""

ORDER = (
    ('deepcluster', UNTRAINED, ('kmeans', 'test', 'acc'), 0.1),
    ('coke-2view', 'coke', ('kmeans', 'test', 'acc'), 0.1),
)
"""What ``--small`` must show: a method, one below it, by which score, and by how much at least."""

Sources = Mapping[str, str | dict]


def main(args: argparse.Namespace) -> None:
    try:
        failed = compare(args, Console())
    except (OSError, ValueError) as error:
        raise SystemExit(f'error: {error}') from error
    except KeyboardInterrupt:
        print('\nInterrupted. The same command goes on.', file=sys.stderr)
        raise SystemExit(130) from None
    if failed:
        raise SystemExit(f'error: {"; ".join(failed)}')


def compare(args: argparse.Namespace, console: Console) -> list[str]:
    """Train, measure and report all runs that are not done; says which failed, and why."""
    MMLogger.get_instance('comparison', log_level='WARNING')  # the bar and the table say the rest
    work_dir = Path(args.work_dir)
    sources = dict(write_digits(work_dir / 'data')) if args.small else cifar10_sources(args.data)
    keep_settings(args, sources, work_dir / 'settings.json')
    sources = prepare_data(args, sources, work_dir / 'data')
    wanted = [(method, seed) for seed in args.seeds for method in (UNTRAINED, *args.methods)]
    folders = {work_dir / method / f'seed{seed}': (method, seed) for method, seed in wanted}
    due = {path: run for path, run in folders.items() if not (path / 'scores.json').is_file()}
    failed = []
    for number, (folder, (method, seed)) in enumerate(due.items(), 1):
        console.print(f'{method}, seed {seed} ({number} of {len(due)})')
        try:
            finish_run(args, method, seed, sources, folder)
        except Exception as error:  # whatever it is, it must not stop the others
            failed.append(note_failure(error, f'{method}, seed {seed}', folder / 'error.txt'))
            console.print(failed[-1], style='red', markup=False, soft_wrap=True)
        write_report(work_dir)
    if not due:
        write_report(work_dir)
    print((work_dir / 'table.md').read_text(encoding='utf-8'))
    print(f'{work_dir}: table.md, results.json, curves.svg, curves.png')
    if args.order_due:
        failed += check_order(finished_runs(work_dir))
    return failed


def note_failure(error: Exception, name: str, path: Path) -> str:
    """Write the traceback into a file; the failure of a run in one line."""
    write_text(path, ''.join(traceback.format_exception(error)))
    said = explain_misspelt(error) or ' '.join(str(error).split()) or type(error).__name__
    return f'{name}: {said} ({path}) The same command tries again.'


# ---- settings and data


def keep_settings(args: argparse.Namespace, sources: Sources, path: Path) -> None:
    """Note what all runs of a work dir have in common, the images among it.

    Raises:
        ValueError: if those that are there were made with other settings.
    """
    names = ('epochs', 'small', 'num_images', 'width', 'train_and_test', 'cfg_options')
    settings = {name: getattr(args, name) for name in names} | dict(data=digest_of(sources))
    if path.is_file():
        before = read_json(path, *settings)
        differ = [name for name in settings if before[name] != settings[name]]
        if differ:
            was = ', '.join(f'{name} {before[name]}, not {settings[name]}' for name in differ)
            raise ValueError(
                f'{path.parent} holds a comparison with other settings: {was}. Give the same ones, '
                'or another --work-dir.'
            )
    write_text(path, json.dumps(settings, indent=2) + '\n')


def digest_of(sources: Sources) -> str:
    """The beginning of the hash of all images and labels, wherever they lie."""
    splits = [load_split(sources[split], 'all') for split in ('train', 'test')]
    return digest(array for arrays in splits for array in arrays if array is not None)[:12]


def prepare_data(args: argparse.Namespace, sources: Sources, folder: Path) -> dict[str, str | dict]:
    """Sources of ``train`` and ``test``, and of ``training``: what networks are trained on."""
    sources = dict(sources)
    if args.num_images:
        part = folder / f'train_{args.num_images}.npz'
        if not part.is_file():
            write_part(sources['train'], args.num_images, part)
        sources['train'] = str(part)
    sources['training'] = sources['train']
    if args.train_and_test:
        sources['training'] = str(folder / 'train_and_test.npz')
        write_both(sources, Path(sources['training']))
    return sources


def write_digits(folder: Path) -> Iterator[tuple[str, str]]:
    """The two splits of the digits as files; their names and paths."""
    for split in ('train', 'test'):
        path = folder / f'digits_{split}.npz'
        if not path.is_file():
            images, labels = load_split('digits', split)
            write_whole(path, lambda part, x=images, y=labels: save_npz(part, x=x, y=y))
        yield split, str(path)


def write_both(sources: Sources, path: Path) -> None:
    """Both splits as one file, training images first."""
    if not path.is_file():
        parts = [load_split(sources[split], 'all') for split in ('train', 'test')]
        x, y = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        write_whole(path, lambda part: save_npz(part, x=x, y=y))


# ---- one run


def finish_run(
    args: argparse.Namespace, method: str, seed: int, sources: Sources, folder: Path
) -> None:
    """Train, or go on, and measure; ``scores.json`` in the folder says that it is done."""
    recipe = args.recipes[args.methods[0] if method == UNTRAINED else method]
    cfg = run_config(args, recipe, seed, sources, folder)
    if method == UNTRAINED:
        checkpoint, curve = save_untrained(cfg, folder / 'untrained.pth'), []
    else:
        train(cfg)
        checkpoint, curve = last_in(folder), knn_curve(folder)
    gc.collect()  # the network, before another one is loaded
    splits = {split: sources[split] for split in ('train', 'test')}
    record = scores_of_run(cfg, checkpoint, splits)
    record |= dict(
        method=method,
        seed=seed,
        split='train_and_test' if args.train_and_test else 'test',
        epochs=cfg.train_cfg.max_epochs if curve else 0,
        seconds=curve[-1][1] if curve else 0.0,
        curve=curve,
    )
    write_text(folder / 'scores.json', json.dumps(record, indent=2) + '\n')
    (folder / 'error.txt').unlink(missing_ok=True)  # of an earlier try


def run_config(
    args: argparse.Namespace, recipe: Path, seed: int, sources: Sources, folder: Path
) -> Config:
    """The config of one run: a recipe with seed, data, epochs, width and a kNN probe."""
    cfg = Config.fromfile(recipe)
    merge_options(cfg, args.cfg_options)
    cfg.work_dir, cfg.experiment_name = str(folder), str(folder)
    cfg.resume = bool(saved_checkpoints(folder))
    cfg.log_level = 'ERROR'
    cfg.randomness.seed = seed
    if cfg.model.type not in UNSEEDED:
        cfg.model.clustering.seed = seed
    if args.width:
        narrow(cfg, args.width)
    if args.epochs:
        set_epochs(cfg, args.epochs)
    epochs, hook = cfg.train_cfg.max_epochs, cfg.default_hooks.checkpoint
    hook.update(interval=min(hook.get('interval', 10), epochs), max_keep_ckpts=1)
    cfg.default_hooks.pop('report', None)  # its time is not that of training
    cfg.train_dataloader.dataset.update(source=sources['training'], split='all')
    interval = args.knn_every or max(1, epochs // 20)
    cfg.custom_hooks += [knn_probe(cfg, sources, interval), dict(type='ProgressHook')]
    return cfg


def narrow(cfg: Config, width: int) -> None:
    """Give the network so many channels in its stem, and PCA of its features the same share."""
    cfg.model.backbone.update(stem_channels=width, base_channels=width)
    clustering = cfg.model.get('clustering', {})
    if 'pca_dim' in clustering:
        clustering.pca_dim = max(1, clustering.pca_dim * width // 64)


def knn_probe(cfg: Config, sources: Sources, interval: int) -> dict:
    """Config of the hook that classifies the test split, with all images, during training."""
    dataset = cfg.train_dataloader.dataset
    plain = dict(type='InMemoryImages', device=dataset.get('device', 'cpu'))
    plain |= dict(pipeline=dataset.pipeline)
    train, test = (dict(plain, source=sources[split]) for split in ('train', 'test'))
    options = dict(interval=interval, max_samples=1 << 20, batch_size=1000)
    return dict(type='KNNHook', train=train, test=test, **options)


def save_untrained(cfg: Config, path: Path) -> Path:
    """Save the network that a training would start from."""
    init_default_scope('mmcoke')
    set_random_seed(cfg.randomness.seed)
    with scope_of(cfg):
        model = MODELS.build(cfg.model)
    model.init_weights()
    state = dict(state_dict=model.state_dict(), meta=dict(epoch=0))
    write_whole(path, lambda part: save_torch(state, part))
    return path


def knn_curve(folder: Path) -> list[tuple[int, float, float]]:
    """Epoch, seconds of training and accuracy of each probe."""
    curves = read_scalars(folder)
    seconds = dict(curves['knn/seconds'])
    return [(epoch, round(seconds[epoch], 1), share) for epoch, share in curves['knn/acc']]


# ---- report


def finished_runs(work_dir: Path) -> list[dict]:
    """Records of all finished runs in a work dir, the oldest first."""
    paths = sorted(work_dir.glob('*/seed*/scores.json'), key=lambda path: path.stat().st_mtime)
    return [read_json(path, 'method', 'seed', 'scores', 'curve') for path in paths]


def check_order(runs: list[dict]) -> list[str]:
    """Print how far :data:`ORDER` holds, means over the seeds; returns what does not."""
    broken = []
    for better, worse, score, margin in ORDER:
        means = [mean_score(runs, method, score) for method in (better, worse)]
        if None in means:
            continue
        said = f'{better} {means[0]:.3f}, {worse} {means[1]:.3f} ({" ".join(score)})'
        print(f'order: {said}, at least {margin} apart')
        if means[0] - means[1] < margin:
            broken.append(f'the order is another one: {said}, which must be {margin} apart')
    return broken


def mean_score(runs: list[dict], method: str, score: tuple[str, ...]) -> float | None:
    """Mean over the seeds; None if the method has not run."""
    found = [reduce(getitem, score, run['scores']) for run in runs if run['method'] == method]
    return mean(found) if found else None


def write_report(work_dir: Path) -> None:
    """Write table, results and curves of all finished runs in a work dir."""
    runs = finished_runs(work_dir)
    settings = read_json(work_dir / 'settings.json')
    record = dict(settings=settings, versions=versions(), runs=runs)
    write_text(work_dir / 'results.json', json.dumps(record, indent=2) + '\n')
    write_text(work_dir / 'table.md', comparison_text(settings, runs))
    write_curves(runs, work_dir / 'curves')


def comparison_text(settings: Mapping, runs: list[dict]) -> str:
    """The table, and how its figures came about."""
    trained = 'both splits' if settings['train_and_test'] else 'the training split'
    images = 'digits of scikit-learn' if settings['small'] else 'CIFAR-10'
    devices = ', '.join(sorted({run['device'] for run in runs})) or 'none yet'
    scored = 'both splits' if settings['train_and_test'] else 'the test split'
    return (
        f'# {images}: trained on {trained}, clusters scored on {scored}\n\n'
        f'{comparison_table(runs)}\n'
        'In percent, mean ± standard deviation over the seeds; minutes of training, without the '
        f'probes, on {devices}.\n\n{runs[0]["protocol"] if runs else ""}\n'
    )
