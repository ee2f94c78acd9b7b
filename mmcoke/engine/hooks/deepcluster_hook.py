"""Says when DeepCluster clusters."""

from mmengine.runner import Runner

from mmcoke.clustering import DeepClusterLabeler
from mmcoke.clustering.settings import check_number
from mmcoke.datasets import ClusterUniformSampler
from mmcoke.registry import HOOKS

from .labeler_hook import mean_loss
from .refit_hook import RefitHook


@HOOKS.register_module()
class DeepClusterHook(RefitHook):
    """Clusters before training and after every ``interval`` epochs but the last one.

    Runs before ``CheckpointHook``, so a checkpoint holds the labels and the new classifier of the
    epoch to come. See :class:`RefitHook` for what it logs.

    Args:
        pipeline, batch_size, num_workers: see :class:`RefitHook`.
        interval: epochs from one clustering to the next.

    Raises:
        ValueError: if the interval is not positive.
    """

    def __init__(
        self,
        pipeline: list[dict],
        batch_size: int = 128,
        num_workers: int = 0,
        interval: int = 1,
    ) -> None:
        super().__init__(pipeline, batch_size, num_workers)
        check_number('interval', interval, '[1, inf)', whole=True)
        self.interval = interval

    def num_fits_due(self, runner: Runner) -> int:
        # So a run that was finished, and resumed with more epochs, clusters first.
        return 1 + runner.epoch // self.interval

    def recount(self, labeler: DeepClusterLabeler) -> None:
        labeler.size.copy_(labeler.labels.sizes())

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        sampler = runner.train_dataloader.sampler
        if isinstance(sampler, ClusterUniformSampler):
            (labeler,) = self._labelers(runner)
            sampler.labels = labeler.labels

    def after_train_epoch(self, runner: Runner) -> None:
        runner.visualizer.add_scalars({'deepcluster/loss': mean_loss(runner)}, runner.epoch + 1)
        if self.every_n_epochs(runner, self.interval) and not self.is_last_train_epoch(runner):
            self.refit(runner, runner.epoch + 1)
