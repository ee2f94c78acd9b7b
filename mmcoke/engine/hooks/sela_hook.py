"""Says when SeLa labels all images anew."""

import math

from mmengine.runner import Runner
from torch import Tensor, nn

from mmcoke.clustering import SeLaLabeler
from mmcoke.clustering.settings import check_number
from mmcoke.registry import HOOKS

from .coke_hook import curve_names
from .labeler_hook import mean_loss
from .refit_hook import RefitHook


@HOOKS.register_module()
class SeLaHook(RefitHook):
    """Labels before training, and then at the ends of epochs, closer together at first.

    The i-th of ``num_updates`` is due when ``(i / num_updates)^power`` of the training is done, as
    in the authors' schedule; those that fall into one epoch are one, at its end, and there is none
    after the last epoch. The classifiers go on: the labels follow them. Runs before
    ``CheckpointHook``. See :class:`RefitHook` for what it logs, here as ``sela/K``.

    Args:
        pipeline, batch_size, num_workers: see :class:`RefitHook`.
        num_updates: how often the labels are updated, at most, after those at the start.
        power: 2 as for ImageNet; 1 for equal intervals, as for CIFAR-10.

    Raises:
        ValueError: if the number of updates is negative, or the power below 1.
    """

    def __init__(
        self,
        pipeline: list[dict],
        batch_size: int = 128,
        num_workers: int = 0,
        *,
        num_updates: int,
        power: float = 2.0,
    ) -> None:
        super().__init__(pipeline, batch_size, num_workers)
        check_number('num_updates', num_updates, '[0, inf)', whole=True)
        check_number('power', power, '[1, inf)')
        self.num_updates, self.power = num_updates, power

    def num_fits_due(self, runner: Runner) -> int:
        epochs = update_epochs(self.num_updates, runner.max_epochs, self.power)
        return 1 + sum(epoch <= runner.epoch for epoch in epochs)

    def recount(self, labeler: SeLaLabeler) -> None:
        labeler.size.copy_(labeler.labels.sizes())

    def cluster_options(self, model: nn.Module, number: int) -> dict[str, Tensor]:
        classifier = model.head.classifiers[number].fc_cls
        return dict(weight_KD=classifier.weight.detach(), bias_K=classifier.bias.detach())

    def after_refit(self, runner: Runner) -> None:
        """Nothing: the labels are the classifiers' own."""

    def curve_names(self, model: nn.Module) -> list[str]:
        return curve_names(model.labelers, 'sela')

    def after_train_epoch(self, runner: Runner) -> None:
        runner.visualizer.add_scalars({'sela/loss': mean_loss(runner)}, runner.epoch + 1)
        if runner.epoch + 1 in update_epochs(self.num_updates, runner.max_epochs, self.power):
            self.refit(runner, runner.epoch + 1)


def update_epochs(num_updates: int, max_epochs: int, power: float = 2.0) -> list[int]:
    """After how many epochs the labels are updated, in ascending order."""
    done = (max_epochs * (i / num_updates) ** power for i in range(1, num_updates + 1))
    due = {math.ceil(epochs - 1e-6) for epochs in done}  # less what rounding may add
    return sorted(epoch for epoch in due if epoch < max_epochs)
