"""Makes randomness follow from (seed, epoch, sample), so that runs can be resumed exactly."""

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmcoke.datasets.seeded_pipeline import seed_pipelines, seed_random
from mmcoke.engine.model_wrappers import unwrap
from mmcoke.registry import HOOKS


@HOOKS.register_module()
class SampleSeedHook(Hook):
    """Seeds each sample's augmentation, and each iteration of each process.

    Augmentation in the data pipeline depends on (seed, epoch, sample), for any number of workers
    and processes; so does augmentation in batch, whose preprocessor is told of each epoch. What
    draws random numbers in the training process itself (dropout, kornia) depends on (seed,
    iteration, rank). A run resumed after any iteration thus continues as if it had not stopped.

    With gradient accumulation, the last step of an epoch takes the batches that are left, with
    their mean gradient: none wait for the next epoch, which a checkpoint would not hold.
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
        preprocessor = getattr(unwrap(runner.model), 'data_preprocessor', None)
        if hasattr(preprocessor, 'set_epoch'):
            preprocessor.set_epoch(runner.seed, runner.epoch)
        self._seed(runner)
        wrapper = runner.optim_wrapper
        counts = getattr(wrapper, '_accumulative_counts', 1)
        if counts > 1:
            done, length = getattr(runner.train_loop, 'done', 0), len(runner.train_dataloader)
            if done % counts and done != length:
                raise ValueError(
                    f'The checkpoint lies after {done} batches of an epoch, between two steps of '
                    f'the optimizer (accumulative_counts={counts}), whose gradients it has not. '
                    'Resume from another one, and let CheckpointHook save after whole steps.'
                )
            # mmengine steps early at the end of a run; to it, every epoch is one.
            wrapper.initialize_count_status(runner.model, done, length)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        # Not once per epoch: loaders draw from the same generator, and not equally often.
        self._seed(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        self._seed(runner)

    def _seed(self, runner: Runner) -> None:
        # Samples use three numbers; one more keeps the two kinds of keys apart.
        seed = seed_random(runner.seed, runner.iter, get_rank(), 1)
        if torch.cuda.is_available():
            torch.cuda.manual_seed_all(seed)
