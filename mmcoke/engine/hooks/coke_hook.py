"""Says when the clusterings of CoKe and SeCu begin and end an epoch."""

from collections.abc import Iterable

from mmengine.runner import Runner
from torch import nn

from mmcoke.engine.batch_size import batch_size
from mmcoke.engine.loops import taken_up
from mmcoke.engine.model_wrappers import unwrap
from mmcoke.registry import HOOKS

from .labeler_hook import LabelerHook, mean_loss


@HOOKS.register_module()
class CoKeHook(LabelerHook):
    """Makes the labelers for the training set, and tells them and the head of epochs.

    The hook of :class:`CoKe`, and of :class:`SeCu`, where ``coke`` in the names of curves is
    ``secu``. Scales ``dual_lr`` to the images that a dual step sees, also when a run resumes.

    Runs before ``CheckpointHook``, so checkpoints hold the published centers of the epoch. Logs,
    after each epoch and for each clustering (K clusters), ``coke/K/min_size`` and ``max_size`` in
    samples, ``coke/K/num_small``, the clusters under the lower bound, and ``coke/K/changed``, the
    share of labels that changed.
    """

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        images, model = batch_size(runner), unwrap(runner.model)
        dual_lr, base = model.scale_dual_lr(images.iteration), model.dual_lr_base_batch_size
        source = f'in the config for {base} images' if base else 'as in the config'
        runner.logger.info(
            f'{type(model).__name__}: dual_lr {dual_lr:g} ({source}) for the {images.iteration} '
            f'images of a dual step: {images}.'
        )

    def before_train_epoch(self, runner: Runner) -> None:
        model = unwrap(runner.model)
        begin = model.labelers.continue_epoch if taken_up(runner) else model.labelers.set_epoch
        begin(runner.epoch)
        if hasattr(model.head, 'set_epoch'):  # one whose loss depends on the epoch
            model.head.set_epoch(runner.epoch)

    def after_train_epoch(self, runner: Runner) -> None:
        model = unwrap(runner.model)
        method, labelers = type(model).__name__.lower(), model.labelers
        runner.visualizer.add_scalars({f'{method}/loss': mean_loss(runner)}, step=runner.epoch + 1)
        names = curve_names(labelers, method)
        heads = dict(zip(names, map(epoch_scalars, labelers), strict=True))
        labelers.end_epoch()
        for name, scalars in heads.items():
            self.log_epoch(runner, runner.epoch + 1, name, scalars)


def curve_names(labelers: Iterable[nn.Module], method: str = 'coke') -> list[str]:
    """``METHOD/K`` for each clustering, with its number where another has the same K."""
    sizes = [len(labeler.sizes()) for labeler in labelers]
    return [
        f'{method}/{k}' if sizes.count(k) == 1 else f'{method}/{k}_{number}'
        for number, k in enumerate(sizes)
    ]


def epoch_scalars(labeler: nn.Module) -> dict[str, float]:
    """What an epoch's clustering looks like: sizes in samples, share of labels that changed."""
    sizes = labeler.sizes()
    bound = labeler.lower_bound * sizes.sum()
    return dict(
        min_size=sizes.min().item(),
        max_size=sizes.max().item(),
        num_small=(sizes < bound).sum().item(),
        changed=round(labeler.changed().item(), 4),
    )
