"""Makes randomness follow from (seed, epoch, sample), so that runs can be resumed exactly."""

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmcoke.datasets.seeded_pipeline import seed_pipelines, seed_random
from mmcoke.registry import HOOKS


@HOOKS.register_module()
class SampleSeedHook(Hook):
    """Seeds each sample's augmentation, and each epoch of each process.

    Augmentation in the data pipeline depends on (seed, epoch, sample), for any number of workers
    and processes. What draws random numbers in the training process itself (augmentation in batch,
    dropout) depends on (seed, epoch, rank). A run resumed at the end of an epoch thus continues as
    if it had not stopped.
    """

    priority = 'HIGH'

    def before_train(self, runner: Runner) -> None:
        # Not earlier: a checkpoint that is resumed brings its seed along.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        loader = runner.train_dataloader
        seed_pipelines(loader.dataset, runner.seed, self._epoch)
        if hasattr(loader.sampler, 'seed'):
            loader.sampler.seed = runner.seed

    def before_train_epoch(self, runner: Runner) -> None:
        self._epoch.fill_(runner.epoch)
        # Samples use three numbers; one more keeps the two kinds of keys apart.
        seed = seed_random(runner.seed, runner.epoch, get_rank(), 1)
        if torch.cuda.is_available():
            torch.cuda.manual_seed_all(seed)
