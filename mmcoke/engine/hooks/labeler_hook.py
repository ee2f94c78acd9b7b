"""What the hooks of all methods do: make labelers, refuse what cannot be trained."""

import logging
import math

import numpy as np
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader, SequentialSampler

from mmcoke.datasets import ClusterUniformSampler, TruncatedSampler
from mmcoke.datasets.identity import KEYS, sample_keys
from mmcoke.datasets.seeded_pipeline import kept_random_state
from mmcoke.datasets.wrappers import sample_rows, without_repetition
from mmcoke.engine.advice import lower_lr
from mmcoke.engine.carried_labels import TABLE, carry_rows, rows_in
from mmcoke.engine.loops import EpochLoop
from mmcoke.engine.model_wrappers import unwrap
from mmcoke.engine.pending import Pending, is_due

EPOCH_NUMBERS = 'clusters_of_the_epoch'
"""In the runner's message hub: the numbers of the last epoch that were logged, by name."""


class LabelerHook(Hook):
    """Makes the labelers for the training set; checks loop, data, checkpoint and loss.

    Checkpoints hold a key of each image, so a run can be resumed with images added or removed: the
    others keep their labels.
    """

    may_repeat = False
    """Whether an image may come more than once in an epoch: not where targets are of the last."""

    def before_run(self, runner: Runner) -> None:
        """Refuse what cannot be trained: a ValueError with the remedy."""
        if isinstance(runner._train_loop, BaseLoop):  # else a run that only tests
            check_train_loop(runner._train_loop)
            check_visits(runner._train_loop.dataloader, self.may_repeat)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Make the labelers, find their images again, and refuse a checkpoint that does not fit.

        mmengine would load such a one in part.

        Raises:
            ValueError: if it is of another method, number of clusters or data set.
        """
        if not isinstance(runner._train_loop, BaseLoop):
            return
        state_dict, labelers = checkpoint.get('state_dict', checkpoint), self._labelers(runner)
        rows = None
        if any(map(TABLE.fullmatch, state_dict)):
            dataset = runner.train_dataloader.dataset
            rows = rows_in(checkpoint, dataset, runner._load_from or 'The checkpoint')
        if rows is not None:
            carry_rows(state_dict, labelers, rows)
        saved = {name.removeprefix('module.'): x.shape for name, x in state_dict.items()}
        check_labeler_state(labelers, saved, runner._resume)
        check_weights(unwrap(runner.model), saved, runner._resume)
        if runner._resume:
            check_place(runner._train_loop, checkpoint['meta'], images_changed=rows is not None)
        self.load_rows(runner, checkpoint, rows)

    def load_rows(self, runner: Runner, checkpoint: dict, rows: Tensor | None) -> None:
        """Load what is kept beside a checkpoint, if there is such; rows as in :func:`rows_in`."""

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Put the keys of the images into it; none is saved after a loss that is not finite."""
        if self._pending is not None:
            self._check_losses(runner, getattr(runner.train_loop, 'done', 0))
        if self._keys is None:
            self._keys = sample_keys(runner.train_dataloader.dataset)
        if self._keys is not None:
            checkpoint[KEYS] = torch.from_numpy(self._keys)

    _keys: np.ndarray | None = None
    _pending: Pending | None = None

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
            model.init_labelers(len(without_repetition(runner.train_dataloader.dataset)))
        return model.labelers

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Stop at a loss that is not finite: at once on CPU, else where losses are logged."""
        if self._pending is None:
            self._pending = Pending()
        self._pending.add(dict(loss=outputs['loss']))
        if is_due(runner, batch_idx, outputs):
            self._check_losses(runner, batch_idx)

    def _check_losses(self, runner: Runner, batch_idx: int) -> None:
        """ValueError if one of the iterations up to this one had no finite loss."""
        losses = [scalars['loss'] for scalars in self._pending.take()]
        for number, loss in enumerate(losses, batch_idx + 2 - len(losses)):
            if not math.isfinite(loss):
                raise ValueError(
                    f'The loss is {loss} in epoch {runner.epoch + 1}, iteration {number}. Lower '
                    f'the learning rate (--cfg-options {lower_lr(configured_lr(runner))}) or check '
                    'the images, then resume from the last checkpoint.'
                )

    def log_epoch(self, runner: Runner, epoch: int, name: str, scalars: dict[str, float]) -> None:
        """Write numbers to the log and, as ``name/...``, as curves; ``ProgressHook`` shows them.

        Args:
            runner: whose log it is.
            epoch: number of epochs that are finished.
            name: of the method or the clustering.
            scalars: numbers by name.
        """
        curves = {f'{name}/{key}': value for key, value in scalars.items()}
        runner.visualizer.add_scalars(curves, step=epoch)
        known = runner.message_hub.runtime_info.get(EPOCH_NUMBERS, {})
        runner.message_hub.update_info(EPOCH_NUMBERS, known | {name: scalars}, resumed=False)
        numbers = ', '.join(f'{key} {value:g}' for key, value in scalars.items())
        runner.logger.info(f'Epoch [{epoch}] {name}: {numbers}')


def configured_lr(runner: Runner) -> float:
    """The learning rate in the config; without a config, of the optimizer."""
    optimizer = (runner.cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    groups = runner.optim_wrapper.param_groups
    return optimizer.get('lr', max(group.get('initial_lr', group['lr']) for group in groups))


def mean_loss(runner: Runner) -> float:
    """Mean of the loss over the present epoch."""
    return float(runner.message_hub.get_scalar('train/loss').mean(len(runner.train_dataloader)))


def check_train_loop(loop: BaseLoop) -> None:
    """Refuse loops without epochs, and empty epochs."""
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


def check_visits(loader: DataLoader, may_repeat: bool) -> None:
    """Refuse data sets and samplers by which labels would go to other images, or come too early.

    Args:
        loader: of the training set.
        may_repeat: whether an image may come more than once in an epoch.

    Raises:
        ValueError: if it does and may not, images share a ``sample_idx``, or an epoch has no end.
    """
    dataset, sampler = loader.dataset, loader.sampler
    name = type(sampler).__name__
    sample_rows(dataset)  # refuses images that share an index
    repeats = len(dataset) > len(without_repetition(dataset))
    if isinstance(sampler, InfiniteSampler):
        raise ValueError(f'{name} never ends an epoch. Use sampler=dict(type="TruncatedSampler").')
    if repeats and isinstance(sampler, ClusterUniformSampler):
        raise ValueError(
            f'{name} draws from all clusters alike, {type(dataset).__name__} repeats images: use '
            'one of them, the data set without its wrapper or the TruncatedSampler.'
        )
    if may_repeat:
        return
    again = 'so it would be trained on a label of the same epoch, not of the last one.'
    if repeats:
        raise ValueError(
            f'{type(dataset).__name__} gives images more than once in an epoch, {again} Take the '
            'wrapper away; instead of repeating all images alike, raise train_cfg.max_epochs.'
        )
    if draws_again(loader):
        raise ValueError(
            f'{name} draws images more than once in an epoch, {again} Use '
            'sampler=dict(type="TruncatedSampler").'
        )


def draws_again(loader: DataLoader) -> bool:
    """Whether a sampler draws an image twice in an epoch, on one process or on two."""
    sampler = loader.sampler
    even = getattr(sampler, 'total_size', 0) <= len(loader.dataset)
    if type(sampler) in (TruncatedSampler, DefaultSampler, SequentialSampler) and even:
        return False
    with kept_random_state():
        drawn = torch.tensor(list(sampler), dtype=torch.int64)
    if loader.drop_last:
        drawn = drawn[: len(drawn) // loader.batch_size * loader.batch_size]
    times = drawn.bincount(minlength=len(loader.dataset))
    all_reduce(times)  # mmengine brings it to the device that the backend needs
    return bool((times > 1).any())


def check_place(loop: BaseLoop, meta: dict, *, images_changed: bool) -> None:
    """Refuse a checkpoint within an epoch that cannot be gone on with.

    Args:
        loop: of the run.
        meta: of the checkpoint.
        images_changed: whether the data set has other images since.

    Raises:
        ValueError: if the loop would train all of that epoch again, or what is left of it cannot be
            told, because the order of other images is another.
    """
    if not meta.get('place', {}).get('done'):
        return
    if not isinstance(loop, EpochLoop):
        raise ValueError(
            f'The checkpoint lies within an epoch, where {type(loop).__name__} cannot go on. '
            "Resume with tools/train.py, or set train_cfg=dict(type='mmcoke.EpochLoop', "
            'max_epochs=...).'
        )
    if images_changed:
        raise ValueError(
            'The checkpoint lies within an epoch, and the data set has other images since. Resume '
            'from the end of an epoch, which carries the labels over: --resume .../epoch_N.pth'
        )


def check_weights(model: nn.Module, saved: dict[str, torch.Size], resume: bool) -> None:
    """Compare the weights in a checkpoint with the model's.

    Args:
        model: the algorithm.
        saved: shapes in the checkpoint.
        resume: whether all are needed; else those that are there must fit, at least one.
    """
    # A copy of the network that the checkpoint lacks takes its weights over by itself.
    others = ('labelers.', 'data_preprocessor.', *(() if resume else ('target.',)))
    ours = {
        name: value.shape
        for name, value in model.state_dict().items()
        if not name.startswith(others)
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
    theirs, own = describe_state(saved), describe_state(ours)
    if theirs == own:
        name = next(n for n in sorted({**saved, **ours}) if saved.get(n) != ours.get(n))
        theirs, own = (
            f'{said}, {name} {tuple(shapes[name]) if name in shapes else "missing"}'
            for said, shapes in ((theirs, saved), (own, ours))
        )
    raise ValueError(
        f'The checkpoint has clusterings of {theirs}, but the config and the '
        f'data set make {own}. Set model.clustering and the data set as they '
        'were, or start a new run, which can take the backbone alone: '
        "backbone.init_cfg=dict(type='Pretrained', checkpoint=..., prefix='backbone.')."
    )


KINDS = {
    'CoKe': ('kmeans.centers', 'kmeans.dual'),
    'SeCu': ('velocity', 'velocity'),
    'ODC': ('centroids', 'size'),
    'DeepCluster': ('size', 'size'),
    'SwAV': ('queue', None),
    'SelfLabel': ('labels.agreed', 'centers'),
    'DeepClusterV2': ('centers', 'centers'),
}
"""Of each method, the first that fits: a buffer that it has, and one with a row per cluster."""


def describe_state(shapes: dict[str, torch.Size]) -> str:
    """Kind, numbers of clusters and samples in the shapes of labelers' buffers."""
    names = {name.partition('.')[2] for name in shapes}
    kind = next((kind for kind, (name, _) in KINDS.items() if name in names), 'another method')
    _, per_cluster = KINDS.get(kind, (None, None))
    if kind == 'CoKe':
        kind += f' {"with" if "labels.weight" in names else "without"} averaged labels'
    elif kind == 'SeCu':
        kind += f' constrained by {"size" if "dual" in names else "entropy"}'
    elif kind == 'ODC' and 'memory.x' not in names:
        kind += ' with shard_memory'
    sizes = [shape[0] for name, shape in shapes.items() if name.partition('.')[2] == per_cluster]
    tables = {shape[0] for name, shape in shapes.items() if name.endswith('.label')}
    dims = {x[1] for name, x in shapes.items() if name.endswith(('.centers', '.centroids'))}
    clusters = f'num_clusters={sizes}, ' if sizes else ''
    return (
        f'{kind}, {clusters}{sorted(tables)} samples{f", dimension {sorted(dims)}" if dims else ""}'
    )
