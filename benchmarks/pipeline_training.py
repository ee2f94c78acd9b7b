"""A short training from JPEG files with our views and with the published pipeline on PIL.

CoKe, one view, ResNet-18, the recipe of a folder of one's own: the loss of each epoch with both
pipelines, and the seconds of all epochs. Random numbers differ between them, so losses are compared
with those of other seeds (`--repeats`).

    python benchmarks/pipeline_training.py FOLDER
"""

import argparse
import tempfile
import time
from pathlib import Path

import _timing
import torch
from mmengine.config import Config

from mmcoke.engine.launch import build_runner

CONFIGS = Path(__file__).resolve().parent.parent / 'configs/selfsup'
RECIPE = CONFIGS / 'coke/coke_r18_1xb256_folder.py'
PIL = CONFIGS / '_base_/datasets/imagenet_coke_pil.py'


def recipe(args: argparse.Namespace, pipeline: str, seed: int, work_dir: str) -> Config:
    cfg = Config.fromfile(RECIPE)
    cfg.default_hooks.pop('report', None)  # its time is not that of training
    if pipeline == 'published':
        published = Config.fromfile(PIL)
        cfg.train_dataloader.dataset.pipeline = published.train_pipeline
        cfg.model.data_preprocessor = published.data_preprocessor
    cfg.merge_from_dict(
        {
            'work_dir': work_dir,
            'experiment_name': work_dir,
            'log_level': 'ERROR',
            'randomness.seed': seed,
            'model.clustering.seed': seed,
            'model.clustering.num_clusters': [4, 8],
            'model.clustering.dual_lr_base_batch_size': args.batch,
            'model.clustering.dual_lr': 1.0,
            'train_dataloader.dataset.data_root': args.folder,
            'train_dataloader.batch_size': args.batch,
            'train_dataloader.num_workers': args.workers,
            'train_dataloader.persistent_workers': args.workers > 0,
            'train_cfg.max_epochs': args.epochs,
            'param_scheduler.0.warmup': 1,
            'default_hooks.checkpoint.interval': args.epochs + 1,
            'optim_wrapper.optimizer': dict(
                _delete_=True, type='SGD', lr=0.05, momentum=0.9, weight_decay=1e-4
            ),
        }
    )
    return cfg


def losses(args: argparse.Namespace, pipeline: str, seed: int) -> tuple[list[float], float]:
    """Mean loss of each epoch, and seconds of all."""
    with tempfile.TemporaryDirectory() as work_dir:
        runner = build_runner(recipe(args, pipeline, seed, work_dir))
        start = time.perf_counter()
        runner.train()
        seconds = time.perf_counter() - start
        history = torch.tensor(runner.message_hub.get_scalar('train/loss').data[0])
    return history.view(args.epochs, -1).mean(1).tolist(), seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('folder', help='of JPEG files')
    parser.add_argument('--epochs', type=int, default=4, help='the first without learning (4)')
    parser.add_argument('--batch', type=int, default=40, help='images (%(default)s)')
    parser.add_argument('--workers', type=int, default=1, help='that load them (%(default)s)')
    _timing.options(parser, repeats=1)
    args = _timing.parse(parser)
    found = {}
    for seed in range(args.repeats):
        for pipeline in ('published', 'ours'):
            loss, seconds = losses(args, pipeline, seed)
            found.setdefault(pipeline, []).append((loss, seconds))
            print(f'seed {seed}, {pipeline}: losses {[round(x, 3) for x in loss]}, {seconds:.0f} s')
    times = {
        name: _timing.summary([1000 * seconds for _, seconds in runs])
        for name, runs in found.items()
    }
    _timing.finish(
        args, times, 'published', losses={n: [x for x, _ in r] for n, r in found.items()}
    )


if __name__ == '__main__':
    main()
