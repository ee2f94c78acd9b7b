"""Says when ODC updates its centroids and small clusters."""

from pathlib import Path

import torch
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from mmcoke.clustering import FeatureMemory
from mmcoke.clustering.settings import check_number
from mmcoke.engine.model_wrappers import unwrap
from mmcoke.files import read_checkpoint, save_torch, write_whole
from mmcoke.registry import HOOKS

from .labeler_hook import mean_loss
from .refit_hook import RefitHook

MEMORY_FOLDER = 'odc_memory'


@HOOKS.register_module()
class ODCHook(RefitHook):
    """Fills the memory before training; updates centroids and splits small clusters on the way.

    Logs, after each epoch, ``odc/min_size`` and ``max_size`` in samples, ``odc/num_small``, the
    small clusters replaced in the epoch, and ``odc/changed``, the share of labels that changed in
    a step. Runs before ``CheckpointHook``.

    A memory that is spread over the processes is not in the checkpoint, which the main process
    alone writes: each process saves its rows beside it, in ``odc_memory``, and a run on any number
    of processes can be resumed from them.

    Args:
        pipeline, batch_size, num_workers: see :class:`RefitHook`.
        centroids_interval: iterations from one update of the centroids to the next.
        small_clusters_interval: the same for small clusters.

    Raises:
        ValueError: if an interval is not positive.
    """

    def __init__(
        self,
        pipeline: list[dict],
        batch_size: int = 128,
        num_workers: int = 0,
        *,
        centroids_interval: int = 10,
        small_clusters_interval: int = 1,
    ) -> None:
        super().__init__(pipeline, batch_size, num_workers)
        check_number('centroids_interval', centroids_interval, '[1, inf)', whole=True)
        check_number('small_clusters_interval', small_clusters_interval, '[1, inf)', whole=True)
        self.centroids_interval = centroids_interval
        self.small_clusters_interval = small_clusters_interval

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """As for all methods; also load the rows of a memory that is spread over processes."""
        super().after_load_checkpoint(runner, checkpoint)
        labelers = unwrap(runner.model).labelers
        if labelers and labelers[0].memory.sharded and runner._resume:
            folder = Path(runner._load_from).parent / MEMORY_FOLDER
            load_shards(labelers[0].memory, folder, name_of(checkpoint['meta']))

    def before_train_epoch(self, runner: Runner) -> None:
        (labeler,) = unwrap(runner.model).labelers
        labeler.set_epoch(runner.epoch)  # only what it logs; no state begins anew

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        (labeler,) = unwrap(runner.model).labelers
        if self.every_n_train_iters(runner, self.centroids_interval):
            labeler.update_centroids()
        if self.every_n_train_iters(runner, self.small_clusters_interval):
            labeler.split_small_clusters()

    def after_train_epoch(self, runner: Runner) -> None:
        (labeler,) = unwrap(runner.model).labelers
        labeler.end_epoch()
        scalars = dict(
            loss=mean_loss(runner),
            min_size=labeler.size.min().item(),
            max_size=labeler.size.max().item(),
            num_small=labeler.num_small,
            changed=round(labeler.changed().item(), 4),
        )
        self.log_epoch(runner, runner.epoch + 1, 'odc', scalars)
        if labeler.memory.sharded and saves_checkpoint(runner):
            name = f'epoch_{runner.epoch + 1}'
            save_shard(labeler.memory, Path(runner.work_dir) / MEMORY_FOLDER, name)

    def before_interruption(self, runner: Runner, name: str) -> None:
        """Save the rows of this process for a checkpoint within an epoch."""
        (labeler,) = unwrap(runner.model).labelers
        if labeler.memory.sharded:
            save_shard(labeler.memory, Path(runner.work_dir) / MEMORY_FOLDER, name)


def interrupted_name(epoch: int, done: int) -> str:
    """Name of a checkpoint after some iterations of an epoch, of which ``epoch`` are finished."""
    return f'interrupted_epoch_{epoch + 1}_iter_{done}'


def name_of(meta: dict) -> str:
    """What a checkpoint was called, without ``.pth``."""
    done = meta.get('place', {}).get('done', 0)
    return interrupted_name(meta['epoch'], done) if done else f'epoch_{meta["epoch"]}'


def saves_checkpoint(runner: Runner) -> bool:
    """Whether a ``CheckpointHook`` will save the present epoch."""
    return any(
        hook.every_n_epochs(runner, hook.interval, hook.save_begin)
        or (hook.save_last and hook.is_last_train_epoch(runner))
        for hook in runner.hooks
        if isinstance(hook, CheckpointHook) and hook.by_epoch
    )


def save_shard(memory: FeatureMemory, folder: Path, name: str) -> None:
    """Save the rows of this process; those whose checkpoint is gone by now go, too.

    Args:
        memory: spread over processes.
        folder: of all shards, in the one with the checkpoints.
        name: of the checkpoint that they belong to, without ``.pth``.
    """
    shard = dict(first=memory.first, num_samples=memory.num_samples, x=memory.x.cpu())
    suffix = f'from_{memory.first}.pth'
    write_whole(folder / f'{name}_{suffix}', lambda path: save_torch(shard, path))
    for path in folder.glob(f'*epoch_*_{suffix}'):
        other = path.name.removesuffix(f'_{suffix}')
        if other != name and not (folder.parent / f'{other}.pth').exists():
            path.unlink()


def load_shards(memory: FeatureMemory, folder: Path, name: str) -> None:
    """Load the rows of this process from what any number of processes have saved.

    Args:
        memory, folder, name: see :func:`save_shard`.

    Raises:
        ValueError: if rows are missing, or they are of another data set.
    """
    found = torch.zeros(len(memory.x), dtype=torch.bool)
    for path in sorted(folder.glob(f'{name}_from_*.pth')):
        shard = read_checkpoint(path, mmap=True)
        last = shard['first'] + len(shard['x'])
        begin, end = max(memory.first, shard['first']), min(memory.own.stop, last)
        if shard['num_samples'] == memory.num_samples and begin < end:
            rows = slice(begin - memory.first, end - memory.first)
            memory.x[rows] = shard['x'][begin - shard['first'] : end - shard['first']]
            found[rows] = True
    if not found.all():
        raise ValueError(
            f'The memory of {name}.pth is not complete: {int((~found).sum())} of {len(found)} '
            f'rows are missing in {folder}. Copy that folder of all machines beside the '
            'checkpoint, or start a new run from its weights with --cfg-options load_from=....'
        )
