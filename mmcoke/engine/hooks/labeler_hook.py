"""What the hooks of all methods do: make labelers, refuse what cannot be trained."""

import logging
import math

import torch
from mmengine.dataset import ConcatDataset as MMEngineConcatDataset
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner
from torch import nn

from mmcoke.datasets import ConcatDataset
from mmcoke.engine.loops import EpochLoop
from mmcoke.engine.model_wrappers import unwrap


class LabelerHook(Hook):
    """Makes the labelers for the training set; checks loop, data, checkpoint and loss."""

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
            if runner._resume:
                check_place(runner._train_loop, checkpoint['meta'])

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

    def log_epoch(self, runner: Runner, epoch: int, name: str, scalars: dict[str, float]) -> None:
        """Write numbers to the log and, as ``name/...``, as curves.

        Args:
            runner: whose log it is.
            epoch: number of epochs that are finished.
            name: of the method or the clustering.
            scalars: numbers by name.
        """
        curves = {f'{name}/{key}': value for key, value in scalars.items()}
        runner.visualizer.add_scalars(curves, step=epoch)
        numbers = ', '.join(f'{key} {value:g}' for key, value in scalars.items())
        runner.logger.info(f'Epoch [{epoch}] {name}: {numbers}')


def mean_loss(runner: Runner) -> float:
    """Mean of the loss over the present epoch."""
    return float(runner.message_hub.get_scalar('train/loss').mean(len(runner.train_dataloader)))


def check_train_loop(loop: BaseLoop) -> None:
    """Refuse loops without epochs, empty epochs, and data sets without a unique ``sample_idx``."""
    if not isinstance(loop, EpochBasedTrainLoop):
        raise ValueError(
            'Clustering goes by epochs: set train_cfg=dict(by_epoch=True, max_epochs=...), '
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


def check_place(loop: BaseLoop, meta: dict) -> None:
    """Refuse a checkpoint within an epoch where the loop would train all of that epoch again."""
    if meta.get('place', {}).get('done') and not isinstance(loop, EpochLoop):
        raise ValueError(
            f'The checkpoint lies within an epoch, where {type(loop).__name__} cannot go on. '
            "Resume with tools/train.py, or set train_cfg=dict(type='mmcoke.EpochLoop', "
            'max_epochs=...).'
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
    """Kind, numbers of clusters and samples in the shapes of labelers' buffers."""
    names = {name.partition('.')[2] for name in shapes}
    kinds = dict(CoKe='kmeans.centers', ODC='centroids', DeepCluster='size')
    kind = next((kind for kind, name in kinds.items() if name in names), 'another method')
    if kind == 'CoKe':
        kind += f' {"with" if "labels.weight" in names else "without"} averaged labels'
    elif kind == 'ODC' and 'memory.x' not in names:
        kind += ' with shard_memory'
    sizes = [shape[0] for name, shape in shapes.items() if name.endswith(('.dual', '.size'))]
    tables = {shape[0] for name, shape in shapes.items() if name.endswith('.label')}
    dims = {x[1] for name, x in shapes.items() if name.endswith(('.centers', '.centroids'))}
    return (
        f'{kind}, num_clusters={sizes}, {sorted(tables)} samples'
        f'{f", dimension {sorted(dims)}" if dims else ""}'
    )
