"""Writes what a classifier reached, for the model zoo."""

from collections import defaultdict
from pathlib import Path

from mmengine.dist import get_world_size, master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmcoke.engine.model_wrappers import unwrap
from mmcoke.evaluation import results  # the module: it imports this package itself
from mmcoke.registry import HOOKS


@HOOKS.register_module()
class ResultsHook(Hook):
    """Writes the scores of the last validation to ``WORK_DIR/CONFIG.json`` and ``.md``.

    See :func:`~mmcoke.evaluation.results.write_results`. For models with a ``checkpoint``, such as
    ``FrozenClassifier``.

    Args:
        protocol: how the numbers came about, for the reader of the table.
    """

    def __init__(self, protocol: str) -> None:
        self.protocol = protocol

    def before_train(self, runner: Runner) -> None:
        """Raises ValueError if the run would replace the checkpoint that it evaluates."""
        checkpoint = Path(unwrap(runner.model).checkpoint).resolve()
        if checkpoint.parent == Path(runner.work_dir).resolve():
            raise ValueError(
                f'{checkpoint} lies in the folder of this run, whose own checkpoints could replace '
                'it. Choose another folder: --work-dir /path/to/folder'
            )

    @master_only
    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Replace the files by those of this epoch."""
        config = runner.cfg.filename
        setup = dict(
            epochs=runner.epoch,
            batch=runner.train_dataloader.batch_size * get_world_size(),
            learning_rate=', '.join(f'{rate:g}' for rate in first_rates(runner)),
        )
        path = results.write_results(
            runner.work_dir,
            Path(config).stem,
            [row | setup for row in table(metrics)],
            protocol=self.protocol,
            config=config,
            checkpoint=unwrap(runner.model).checkpoint,
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


def first_rates(runner: Runner) -> list[float]:
    """The learning rates, before the schedule, of what is trained; the smallest first."""
    groups = runner.optim_wrapper.param_groups
    trained = [group for group in groups if any(x.requires_grad for x in group['params'])]
    return sorted({group.get('initial_lr', group['lr']) for group in trained})
