"""Says where the clusters of the confident stage come from, and logs its epochs."""

import torch
from mmengine.runner import BaseLoop, Runner
from torch import Tensor, nn

from mmcoke.clustering import SelfLabeler
from mmcoke.engine.model_wrappers import unwrap
from mmcoke.registry import HOOKS

from .labeler_hook import mean_loss
from .refit_hook import RefitHook

CLUSTERS = ('centers', 'centroids')
"""Names of the centers of clusters in the state of the labelers."""


@HOOKS.register_module()
class SelfLabelHook(RefitHook):
    """Takes clusters over from the checkpoint that training starts from, or finds them by k-means.

    If that checkpoint has a clustering with as many clusters, in features as wide, its centers are
    the first classifier; else those of k-means of all features. Before the first epoch neighbours
    are compared. Logs, after each epoch, ``selflabel/min_size`` and ``max_size`` in samples,
    ``changed``, the share of labels that changed, and ``sure``, the share that was trained on.

    Args:
        see :class:`RefitHook`.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Of another method's checkpoint, take weights and, if they fit, the clusters."""
        state = checkpoint.get('state_dict', checkpoint)
        other = [name for name in state if 'labelers.' in name]
        own = runner._resume or any(name.endswith('labels.agreed') for name in other)
        if isinstance(runner._train_loop, BaseLoop) and not own:
            (labeler,) = self._labelers(runner)
            start_from_clusters(labeler, {name: state.pop(name) for name in other}, runner)
        super().after_load_checkpoint(runner, checkpoint)

    def recount(self, labeler: SelfLabeler) -> None:
        """Nothing follows from the labels."""

    def after_refit(self, runner: Runner) -> None:
        """The centers are the classifier."""
        (labeler,) = unwrap(runner.model).labelers
        unwrap(runner.model).head.start_from(labeler.centers)

    def before_train_epoch(self, runner: Runner) -> None:
        (labeler,) = unwrap(runner.model).labelers
        labeler.set_epoch(runner.epoch)

    def after_train_epoch(self, runner: Runner) -> None:
        (labeler,) = unwrap(runner.model).labelers
        sizes = labeler.sizes()
        scalars = dict(
            loss=mean_loss(runner),
            min_size=sizes.min().item(),
            max_size=sizes.max().item(),
            changed=round(labeler.changed().item(), 4),
            sure=round(labeler.sure().item(), 4),
        )
        self.log_epoch(runner, runner.epoch + 1, 'selflabel', scalars)


def start_from_clusters(labeler: nn.Module, state: dict[str, Tensor], runner: Runner) -> None:
    """Let a labeler start from the first clustering of as many clusters, if there is one.

    Args:
        labeler: of this method.
        state: of the labelers of another one.
        runner: for its log.
    """
    fitting = [
        name
        for name, x in state.items()
        if name.endswith(CLUSTERS) and x.shape == labeler.centers.shape and torch.isfinite(x).all()
    ]
    size = f'{labeler.num_clusters} clusters in {labeler.centers.shape[1]} dimensions'
    if fitting:
        labeler.start_from(state[fitting[0]])
        runner.logger.info(f'SelfLabel: starts from {size} of the checkpoint ({fitting[0]}).')
    else:
        runner.logger.info(f'SelfLabel: the checkpoint has no {size}; k-means finds them.')
