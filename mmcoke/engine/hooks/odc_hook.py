"""Says when ODC updates its centroids and small clusters."""

from mmengine.runner import Runner

from mmcoke.engine.model_wrappers import unwrap
from mmcoke.registry import HOOKS

from .labeler_hook import mean_loss
from .refit_hook import RefitHook


@HOOKS.register_module()
class ODCHook(RefitHook):
    """Fills the memory before training; updates centroids and splits small clusters on the way.

    Logs, after each epoch, ``odc/min_size`` and ``max_size`` in samples, ``odc/num_small``, the
    small clusters replaced in the epoch, and ``odc/changed``, the share of labels that changed in
    a step. Runs before ``CheckpointHook``.

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
        if min(centroids_interval, small_clusters_interval) < 1:
            raise ValueError(
                f'Intervals must be at least 1 iteration, but are {centroids_interval} and '
                f'{small_clusters_interval}.'
            )
        self.centroids_interval = centroids_interval
        self.small_clusters_interval = small_clusters_interval

    def before_train_epoch(self, runner: Runner) -> None:
        (labeler,) = unwrap(runner.model).labelers
        labeler.set_epoch(runner.epoch)

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
