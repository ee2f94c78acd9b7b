"""Says when CoKe's clustering begins and ends an epoch."""

from mmengine.runner import Runner
from torch import nn

from mmcoke.clustering import CoKeLabeler
from mmcoke.engine.model_wrappers import unwrap
from mmcoke.registry import HOOKS

from .labeler_hook import LabelerHook, mean_loss


@HOOKS.register_module()
class CoKeHook(LabelerHook):
    """Makes the labelers for the training set, and tells them when an epoch begins and ends.

    Runs before ``CheckpointHook``, so checkpoints hold the published centers of the epoch. Logs,
    after each epoch and for each clustering (K clusters), ``coke/K/min_size`` and ``max_size`` in
    samples, ``coke/K/num_small``, the clusters under the lower bound, and ``coke/K/changed``, the
    share of labels that changed.
    """

    def before_train_epoch(self, runner: Runner) -> None:
        for labeler in unwrap(runner.model).labelers:
            labeler.set_epoch(runner.epoch)

    def after_train_epoch(self, runner: Runner) -> None:
        runner.visualizer.add_scalars({'coke/loss': mean_loss(runner)}, step=runner.epoch + 1)
        labelers = unwrap(runner.model).labelers
        for name, labeler in zip(curve_names(labelers), labelers, strict=True):
            scalars = epoch_scalars(labeler)
            labeler.end_epoch()
            self.log_epoch(runner, runner.epoch + 1, name, scalars)


def curve_names(labelers: nn.ModuleList) -> list[str]:
    """``coke/K`` for each clustering, with its number where another has the same K."""
    sizes = [labeler.kmeans.num_clusters for labeler in labelers]
    return [
        f'coke/{k}' if sizes.count(k) == 1 else f'coke/{k}_{number}'
        for number, k in enumerate(sizes)
    ]


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
