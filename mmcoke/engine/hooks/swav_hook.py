"""Says when an epoch of SwAV begins."""

from mmengine.runner import Runner

from mmcoke.engine.loops import taken_up
from mmcoke.engine.model_wrappers import unwrap
from mmcoke.registry import HOOKS

from .labeler_hook import LabelerHook, mean_loss


@HOOKS.register_module()
class SwAVHook(LabelerHook):
    """Makes the labeler for the training set; tells it and the head when an epoch begins.

    Logs, after each epoch, ``swav/min_size`` and ``max_size`` in samples, of the clusters that the
    codes name, and ``swav/changed``, the share of samples whose cluster changed.
    """

    may_repeat = True  # codes are those of the batch, not of the last epoch

    def before_train_epoch(self, runner: Runner) -> None:
        model = unwrap(runner.model)
        (labeler,) = model.labelers
        begin = labeler.continue_epoch if taken_up(runner) else labeler.set_epoch
        begin(runner.epoch)
        model.head.set_epoch(runner.epoch)

    def after_train_epoch(self, runner: Runner) -> None:
        (labeler,) = unwrap(runner.model).labelers
        sizes = labeler.sizes()
        scalars = dict(
            loss=mean_loss(runner),
            min_size=sizes.min().item(),
            max_size=sizes.max().item(),
            changed=round(labeler.changed().item(), 4),
        )
        self.log_epoch(runner, runner.epoch + 1, 'swav', scalars)
