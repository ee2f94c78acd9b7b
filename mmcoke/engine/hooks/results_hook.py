"""Writes what a pre-trained backbone reached, for the model zoo."""

from collections import defaultdict
from pathlib import Path

from mmengine.dist import get_world_size, master_only
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner

from mmcoke.engine.model_wrappers import unwrap
from mmcoke.registry import HOOKS
from mmcoke.reporting.results import write_results


@HOOKS.register_module()
class ResultsHook(Hook):
    """Writes the scores of the last validation to ``WORK_DIR/CONFIG.json`` and ``.md``.

    See :func:`~mmcoke.reporting.results.write_results`. For models whose backbone has its
    checkpoint in ``init_cfg``: classifiers such as ``FrozenClassifier``, detectors, segmentors.

    Args:
        protocol: how the numbers came about, for the reader of the table.
    """

    def __init__(self, protocol: str) -> None:
        self.protocol = protocol

    def before_train(self, runner: Runner) -> None:
        """Raises ValueError if the run would replace the checkpoint that it evaluates."""
        checkpoint = Path(backbone_checkpoint(runner)).resolve()
        if checkpoint.parent == Path(runner.work_dir).resolve():
            raise ValueError(
                f'{checkpoint} lies in the folder of this run, whose own checkpoints could replace '
                'it. Choose another folder: --work-dir /path/to/folder'
            )

    @master_only
    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Replace the files by those of this epoch."""
        if not metrics:  # as for a detector that finds nothing
            runner.logger.warning('This validation gave no scores, so there is no table of them.')
            return
        config, checkpoint = runner.cfg.filename, backbone_checkpoint(runner)
        is_file = '://' not in checkpoint
        by_iteration = isinstance(runner.train_loop, IterBasedTrainLoop)
        setup = dict(iterations=runner.iter) if by_iteration else dict(epochs=runner.epoch)
        setup |= dict(
            batch=runner.train_dataloader.batch_sampler.batch_size * get_world_size(),
            learning_rate=', '.join(f'{rate:g}' for rate in first_rates(runner)),
            num_train=len(runner.train_dataloader.dataset),
            num_val=len(runner.val_dataloader.dataset),
        )
        path = write_results(
            runner.work_dir,
            Path(config).stem,
            [row | setup for row in table(metrics)],
            protocol=self.protocol if is_file else f'{self.protocol} Weights: {checkpoint}.',
            config=config,
            checkpoint=checkpoint if is_file else None,
        )
        runner.logger.info(f'The table is in {path.with_suffix(".md")}')


def table(metrics: dict[str, float]) -> list[dict[str, float]]:
    """One row for metrics such as ``accuracy/top1``; one per head for ``accuracy/HEAD/top1``."""
    rows = defaultdict(dict)
    for name, value in metrics.items():
        *path, score = name.split('/')
        head = '/'.join(path[1:])
        rows[head][score] = value
    return [dict(head=head, **row) if head else row for head, row in rows.items()]


def backbone_checkpoint(runner: Runner) -> str:
    """Path or address of the weights that the backbone started from."""
    return unwrap(runner.model).backbone.init_cfg['checkpoint']


def first_rates(runner: Runner) -> list[float]:
    """The learning rates before the schedule, the smallest first."""
    groups = runner.optim_wrapper.param_groups
    return sorted({group.get('initial_lr', group['lr']) for group in groups})
