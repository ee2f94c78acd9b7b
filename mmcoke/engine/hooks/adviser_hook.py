"""Says when a run's numbers are looked at for trouble, and where the advice goes."""

import json
from collections import defaultdict
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmcoke.datasets.wrappers import without_repetition
from mmcoke.engine.advice import Advice, Facts, Row, advice_after, advice_before
from mmcoke.engine.batch_size import batch_size
from mmcoke.engine.model_wrappers import unwrap
from mmcoke.registry import HOOKS

from .cluster_monitor_hook import STATS, add_lines, forget_epochs, labelers_of
from .coke_hook import curve_names
from .labeler_hook import configured_lr

ADVICE = 'advice.jsonl'
"""In the work dir: a line for each advice, as JSON."""


@HOOKS.register_module()
class AdviserHook(Hook):
    """Warns of what has gone wrong with a clustering, and says which setting to change.

    On in every recipe. The rules are those of :mod:`mmcoke.engine.advice`; they read what
    ``ClusterMonitorHook`` has written, so without it only what is known before training is said.
    Each rule speaks once in a run, resumed or not, and no setting is named twice: as a warning, and
    as a line of ``advice.jsonl`` in the work dir with ``epoch`` (0: before training),
    ``clustering`` (or null), ``rule``, ``saw``, ``why``, ``setting``, ``advice``. The main process
    advises.
    """

    priority = 'LOW'  # behind the monitor, ahead of the checkpoint

    def before_train(self, runner: Runner) -> None:
        self._history: dict[str, list[Row]] = defaultdict(list)
        if not (is_main_process() and labelers_of(runner)):
            return
        work_dir = Path(runner.work_dir)
        self._rows, self._advice = Lines(work_dir / STATS), work_dir / ADVICE
        self._facts = facts_of(runner)
        forget_epochs(self._advice, after=runner.epoch or -1)  # a new run knows nothing of others
        self._said = Lines(self._advice).new()
        self._say(runner, advice_before(self._facts), 0)

    def after_train_epoch(self, runner: Runner) -> None:
        if not (is_main_process() and labelers_of(runner)):
            return
        for row in self._rows.new():
            self._history[row['clustering']].append(row)
        if self._history:
            self._say(runner, advice_after(self._facts, self._history), runner.epoch + 1)

    def _say(self, runner: Runner, found: dict[str, Advice], epoch: int) -> None:
        """To the log and the file: what is of a new rule, and asks for something new."""
        for rule, advice in found.items():
            said = [
                line['rule'] == rule or line['setting'] == advice.setting for line in self._said
            ]
            if not any(said):
                runner.logger.warning(str(advice))
                line = dict(epoch=epoch, clustering=advice.clustering, rule=rule)
                self._said.append(line | advice._asdict())
                add_lines(self._advice, self._said[-1:])


class Lines:
    """A file of JSON lines that grows."""

    def __init__(self, path: Path) -> None:
        self.path, self._place = path, 0

    def new(self) -> list[dict]:
        """Those since the last time."""
        if not self.path.exists():
            return []
        with self.path.open(encoding='utf-8') as file:
            file.seek(self._place)
            lines = file.readlines()
            self._place = file.tell()
        return [json.loads(line) for line in lines]


def facts_of(runner: Runner) -> Facts:
    """What the rules need to know of a run whose labelers are made."""
    model, images = unwrap(runner.model), batch_size(runner)
    labelers = labelers_of(runner)
    names = curve_names(labelers, type(model).__name__.lower())
    facts = Facts(
        method=type(model).__name__,
        clustering=model.clustering,
        num_clusters={n: len(labeler.sizes()) for n, labeler in zip(names, labelers, strict=True)},
        num_images=len(without_repetition(runner.train_dataloader.dataset)),
        batch_size=images.per_process,
        num_processes=images.num_processes,
        num_normalized=num_normalized(model, images.per_process, images.num_processes),
        lr=configured_lr(runner),
        max_epochs=runner.max_epochs,
        other_epochs=getattr(model.head, 'instance_epochs', 0),
    )
    if not getattr(labelers[0], 'lower_bound', 0):
        return facts
    min_ratio = labelers[0].lower_bound * len(labelers[0].sizes())
    return facts._replace(dual_lr=labelers[0].dual_lr, min_ratio=min_ratio)


def num_normalized(model: nn.Module, batch_size: int, num_processes: int) -> int | None:
    """Images of a batch that a layer of batch norm sees in training, the fewest of all layers."""
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    if not layers:
        return None
    synchronized = all(isinstance(layer, nn.SyncBatchNorm) for layer in layers)
    return batch_size * (num_processes if synchronized else 1)
