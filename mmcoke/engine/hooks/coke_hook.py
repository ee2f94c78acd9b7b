"""Says when CoKe's clustering begins and ends an epoch."""

import logging
import math

import torch
from mmengine.dataset import ConcatDataset as MMEngineConcatDataset
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner
from torch import nn

from mmcoke.clustering import CoKeLabeler
from mmcoke.datasets import ConcatDataset
from mmcoke.engine.model_wrappers import unwrap
from mmcoke.registry import HOOKS


@HOOKS.register_module()
class CoKeHook(Hook):
    """Makes the labelers for the training set, and tells them when an epoch begins and ends.

    Runs before ``CheckpointHook``, so checkpoints hold the published centers of the epoch. Logs,
    after each epoch and for each clustering (K clusters), ``coke/K/min_size`` and ``max_size`` in
    samples, ``coke/K/num_small``, the clusters under the lower bound, and ``coke/K/changed``, the
    share of labels that changed.
    """

    def before_run(self, runner: Runner) -> None:
        """Refuse what cannot be trained: a ValueError with the remedy."""
        if isinstance(runner._train_loop, BaseLoop):  # else a run that only tests
            check_train_loop(runner._train_loop)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Make the labelers, and refuse a checkpoint that does not fit them.

        mmengine would load such a one in part.

        Raises:
            ValueError: if it is of another method, number of clusters or data set.
        """
        if isinstance(runner._train_loop, BaseLoop):
            state_dict = checkpoint.get('state_dict', checkpoint)
            saved = {name.removeprefix('module.'): x.shape for name, x in state_dict.items()}
            labelers = self._labelers(runner)
            check_labeler_state(labelers, saved, runner._resume)
            check_weights(unwrap(runner.model), saved, runner._resume)

    def before_train(self, runner: Runner) -> None:
        self._labelers(runner)

    @staticmethod
    def _labelers(runner: Runner) -> nn.ModuleList:
        """The labelers; made on first use.

        That is after the runner has broadcast the weights: NCCL knows no 16-bit integers, and the
        labelers are the same on all processes anyway.
        """
        model = unwrap(runner.model)
        if not model.labelers:
            model.init_labelers(len(runner.train_dataloader.dataset))
        return model.labelers

    def before_train_epoch(self, runner: Runner) -> None:
        for labeler in unwrap(runner.model).labelers:
            labeler.set_epoch(runner.epoch)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Stop at a loss that is not finite (mmengine has waited for its value, to log it)."""
        if not math.isfinite(loss := outputs['loss'].item()):
            raise ValueError(
                f'The loss is {loss} in epoch {runner.epoch + 1}, iteration {batch_idx + 1}. Lower '
                'the learning rate or check the images, then resume from the last checkpoint.'
            )

    def after_train_epoch(self, runner: Runner) -> None:
        loss = runner.message_hub.get_scalar('train/loss').mean(len(runner.train_dataloader))
        runner.visualizer.add_scalars({'coke/loss': float(loss)}, step=runner.epoch + 1)
        labelers = unwrap(runner.model).labelers
        for name, labeler in zip(curve_names(labelers), labelers, strict=True):
            scalars = epoch_scalars(labeler)
            labeler.end_epoch()
            runner.visualizer.add_scalars(
                {f'{name}/{key}': value for key, value in scalars.items()}, step=runner.epoch + 1
            )
            numbers = ', '.join(f'{key} {value:g}' for key, value in scalars.items())
            runner.logger.info(f'Epoch [{runner.epoch + 1}] {name}: {numbers}')


def curve_names(labelers: nn.ModuleList) -> list[str]:
    """``coke/K`` for each clustering, with its number where another has the same K."""
    sizes = [labeler.kmeans.num_clusters for labeler in labelers]
    return [
        f'coke/{k}' if sizes.count(k) == 1 else f'coke/{k}_{number}'
        for number, k in enumerate(sizes)
    ]


def check_train_loop(loop: BaseLoop) -> None:
    """Refuse loops without epochs, empty epochs, and data sets without a unique ``sample_idx``."""
    if not isinstance(loop, EpochBasedTrainLoop):
        raise ValueError(
            'CoKe clusters in epochs: set train_cfg=dict(by_epoch=True, max_epochs=...), '
            f'not {type(loop).__name__}.'
        )
    dataset, loader = loop.dataloader.dataset, loop.dataloader
    if not len(loader):
        raise ValueError(
            f'The {len(dataset)} samples of the data set do not fill one batch of '
            f'{loader.batch_size} per process, so with drop_last=True an epoch has no batch. Set a '
            'smaller train_dataloader.batch_size, or give more images.'
        )
    if isinstance(dataset, MMEngineConcatDataset) and not isinstance(dataset, ConcatDataset):
        raise ValueError(
            "mmengine's ConcatDataset gives samples of different parts the same sample_idx. "
            'Use dict(type="mmcoke.ConcatDataset", ...), which numbers them through.'
        )


def epoch_scalars(labeler: CoKeLabeler) -> dict[str, float]:
    """What an epoch's clustering looks like: sizes in samples, share of labels that changed."""
    sizes = labeler.sizes()
    bound = labeler.kmeans.min_ratio / labeler.kmeans.num_clusters * sizes.sum()
    return dict(
        min_size=sizes.min().item(),
        max_size=sizes.max().item(),
        num_small=(sizes < bound).sum().item(),
        changed=round(labeler.changed().item(), 4),
    )


def check_weights(model: nn.Module, saved: dict[str, torch.Size], resume: bool) -> None:
    """Compare the weights in a checkpoint with the model's.

    Args:
        model: the algorithm.
        saved: shapes in the checkpoint.
        resume: whether all are needed; else those that are there must fit, at least one.
    """
    ours = {
        name: value.shape
        for name, value in model.state_dict().items()
        if not name.startswith(('labelers.', 'data_preprocessor.'))
    }
    other = [name for name, shape in ours.items() if saved.get(name, shape) != shape]
    missing = [name for name in ours if name not in saved]
    if other or (missing and resume) or len(missing) == len(ours):
        details = [f'{name} is {tuple(saved[name])}, not {tuple(ours[name])}' for name in other]
        details += [f'{name} is missing' for name in missing]
        raise ValueError(
            f'The checkpoint is of another network: {len(ours) - len(other) - len(missing)} of '
            f'{len(ours)} weights fit; {"; ".join(details[:3])}. Set the model as it was, or take '
            "only the backbone: backbone.init_cfg=dict(type='Pretrained', checkpoint=..., "
            "prefix='backbone.')."
        )
    if missing:
        print_log(
            f'{len(missing)} of {len(ours)} weights are not in the checkpoint and keep their '
            f'initialization: {", ".join(missing[:3])} ...',
            logger='current',
            level=logging.WARNING,
        )


def check_labeler_state(
    labelers: nn.ModuleList, saved: dict[str, torch.Size], resume: bool
) -> None:
    """Compare the clustering state in a checkpoint with the model's.

    Args:
        labelers: of the model.
        saved: shapes in the checkpoint.
        resume: whether the clustering state is needed; else a checkpoint without it will do.
    """
    prefix = 'labelers.'
    saved = {k.removeprefix(prefix): shape for k, shape in saved.items() if k.startswith(prefix)}
    ours = {name: value.shape for name, value in labelers.state_dict().items()}
    if saved == ours or (not saved and not resume):
        return
    if not saved:
        raise ValueError(
            'The checkpoint to resume from holds no clustering state: it is of another method, or '
            'only weights. Start a new run from its weights with --cfg-options '
            'load_from=CHECKPOINT.'
        )
    raise ValueError(
        f'The checkpoint has clusterings of {describe_state(saved)}, but the config and the '
        f'data set make {describe_state(ours)}. Set model.clustering and the data set as they '
        'were, or start a new run, which can take the backbone alone: '
        "backbone.init_cfg=dict(type='Pretrained', checkpoint=..., prefix='backbone.')."
    )


def describe_state(shapes: dict[str, torch.Size]) -> str:
    """Numbers of clusters, dimension and samples in the shapes of labelers' buffers."""
    centers = [shape for name, shape in shapes.items() if name.endswith('kmeans.centers')]
    tables = [shape[0] for name, shape in shapes.items() if name.endswith('.label')]
    averaged = any(name.endswith('labels.weight') for name in shapes)
    return (
        f'num_clusters={[shape[0] for shape in centers]}, dimension '
        f'{sorted({shape[1] for shape in centers})}, {sorted(set(tables))} samples, '
        f'{"with" if averaged else "without"} averaged labels'
    )
