"""A whole step of training on images of 32 px: CoKe, two views, ten heads, ResNet-18, batch 128.

Ours runs as `tools/train.py configs/selfsup/coke/coke_r18_1xb128-2view_cifar10.py` does, hooks and
all, with the captured step and with plain ones; images are random unless `--data` names an array
(.npz with x). `--prototype` names a program that prints `bench: ... views/s` (a single file with
the step in one CUDA graph, which shows what the hardware allows). All run in turns.

    python benchmarks/cifar10_step.py --device cuda --prototype cifar10_one_graph.py
    python benchmarks/cifar10_step.py --width 8 --steps 5                (a CPU, a thinner network)
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _timing
import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmcoke.engine.launch import build_runner

CONFIG = Path(__file__).parent.parent / 'configs/selfsup/coke/coke_r18_1xb128-2view_cifar10.py'
WARMUP = 10


class StopWatch(Hook):
    """Times the iterations after the first ones, and ends the run.

    Args:
        steps: iterations in each of the ``rounds``.
    """

    priority = 'LOWEST'

    def __init__(self, steps: int, rounds: int) -> None:
        self.steps, self.rounds = steps, rounds
        self.times: list[float] = []

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None):
        done = runner.iter + 1 - WARMUP
        if done >= 0 and done % self.steps == 0:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            now = time.perf_counter()
            if done:
                self.times.append(1000 * (now - self.start) / self.steps)
            self.start = now
        if len(self.times) == self.rounds:
            raise Done


class Done(Exception):
    """The times are taken."""


def ours(args: argparse.Namespace, data: str, loop: str, compile_network: bool) -> list[float]:
    """Milliseconds per step, of each round."""
    cfg = Config.fromfile(CONFIG)
    cfg.default_hooks.pop('report', None)  # its time is not that of training
    with tempfile.TemporaryDirectory() as work_dir:
        cfg.merge_from_dict(
            {
                'work_dir': work_dir,
                'experiment_name': f'{loop}{compile_network}{time.time()}',
                'log_level': 'ERROR',
                'train_dataloader.dataset.source': data,
                'default_hooks.checkpoint.interval': 1000,
            }
        )
        cfg.model.backbone.base_channels = cfg.model.backbone.stem_channels = args.width
        cfg.train_cfg.update(type=loop, max_epochs=1000, compile_network=compile_network)
        watch = StopWatch(args.steps, args.repeats)
        runner = build_runner(cfg)
        runner.register_hook(watch)
        try:
            runner.train()
        except Done:
            return watch.times


def prototype(args: argparse.Namespace, data: str) -> float:
    """Milliseconds per step of a program that prints views per second, two per image.

    It runs for 2 and for 5 epochs: the difference is without what it does in its first one.
    """
    images = len(np.load(data)['x'])
    seconds = {epochs: epochs * 2 * images / rate(args, data, epochs) for epochs in (2, 5)}
    return 1000 * (seconds[5] - seconds[2]) / 3 / (images // 128)


def rate(args: argparse.Namespace, data: str, epochs: int) -> float:
    """Views per second that the prototype prints after so many epochs."""
    options = ['--data', data, '--bench', str(epochs - 1), '--width', str(args.width)]
    command = [sys.executable, args.prototype, *options, '--eval-every', '1000']
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(re.search(r'([\d.]+) views/s', run.stdout)[1])


def arrays(folder: str, given: str | None, num: int) -> str:
    """A file that both take: `x` for ours, `xtr` and others for the prototype."""
    if given:
        x = np.load(given)['x']
    else:
        x = np.random.default_rng(0).integers(0, 256, (num, 32, 32, 3), dtype=np.uint8)
    y = np.zeros(len(x), dtype=np.int64)
    np.savez(f'{folder}/x.npz', x=x, y=y, xtr=x, ytr=y, xte=x[:1000], yte=y[:1000])
    return f'{folder}/x.npz'


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--steps', type=int, default=100, help='per round (%(default)s)')
    parser.add_argument('--width', type=int, default=64, help='channels of the stem (%(default)s)')
    parser.add_argument('--num', type=int, default=50_000, help='random images (%(default)s)')
    parser.add_argument('--data', help='an .npz file with x, instead of random images')
    parser.add_argument('--rounds', type=int, default=2, help='of all in turns (%(default)s)')
    parser.add_argument('--prototype', help='a program to compare with')
    _timing.options(parser, repeats=5)
    args = _timing.parse(parser)
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = arrays(folder, args.data, args.num)
        variants = dict(plain=('EpochLoop', False))
        if torch.cuda.is_available():
            variants['captured'] = ('CapturedTrainLoop', False)
            variants['captured, compiled'] = ('CapturedTrainLoop', True)
        for again in range(args.rounds):
            if args.prototype:
                times.setdefault('prototype', []).append(prototype(args, data))
            for name in reversed(variants) if again % 2 else variants:
                times.setdefault(name, []).extend(ours(args, data, *variants[name]))
    summaries = {name: _timing.summary(values) for name, values in times.items()}
    views = {name: 256_000 / statistics.median(values) for name, values in times.items()}
    _timing.finish(args, summaries, next(iter(summaries)), views_per_second=views)


if __name__ == '__main__':
    main()
