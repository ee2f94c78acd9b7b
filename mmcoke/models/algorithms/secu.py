"""SeCu as an OpenMMLab algorithm."""

import torch
from torch import Tensor

from mmcoke.clustering import SeCuLabeler
from mmcoke.clustering.secu import check_settings
from mmcoke.models.heads import SeCuHead
from mmcoke.registry import MODELS

from .base import explained_batch_norm, global_batch, sample_indices
from .coke import CoKe


@MODELS.register_module()
class SeCu(CoKe):
    """Pre-training by stable cluster discrimination (Qian, ICCV 2023).

    As in :class:`CoKe`, images are classified by their labels of the last epoch, and ``CoKeHook``
    makes the labelers and scales ``dual_lr``. The centers are learned by the labelers' own SGD, not
    by the optimizer of the network.

    Args:
        backbone, neck, data_preprocessor, init_cfg: see :class:`ClusteringAlgorithm`.
        head: a :class:`SeCuHead`; ``in_channels`` is the dimension of the projection. What it makes
            of the projections is clustered: they alone, or with the predictions of both views.
        clustering: arguments of :class:`SeCuLabeler`; else as for :class:`CoKe`.
        joint_views: see :class:`CoKe`.
    """

    labeler = SeCuLabeler
    hook = 'CoKeHook'

    def __init__(self, backbone: dict, neck: dict, head: dict, **kwargs) -> None:
        if isinstance(kwargs.get('clustering', {}).get('dim'), (list, tuple)):
            raise ValueError(
                'Nested clusterings are of CoKe, not of SeCu: leave clustering.dim out.'
            )
        super().__init__(backbone, neck, head, **kwargs)
        if not isinstance(self.head, SeCuHead):
            raise ValueError(f"SeCu needs head.type='SeCuHead', not {type(self.head).__name__!r}.")
        check_settings(self.clustering)  # early: labelers are made when the data set is there

    def loss(self, inputs: list[Tensor], data_samples: list | Tensor) -> dict[str, Tensor]:
        """Cluster the global batch and classify the images by their labels of the last epoch.

        Args:
            inputs: two views of the images (n, C, H, W). Each passes backbone and neck on its own,
                unless ``joint_views``.
            data_samples: one per image, each with ``sample_idx``; or these indices, int64 (n,).

        Returns:
            ``loss``, that of the features; and ``center_ce``, the centers' loss, for the log: the
            labelers have made their step.
        """
        self.check_labelers()
        views = check_two_views(inputs)
        with explained_batch_norm():
            x_RD = self.head([self.project(torch.cat(group)) for group in self.passes(views)])
        x_BnD = x_RD.view(-1, len(views[0]), x_RD.shape[1])
        idx_n = sample_indices(data_samples, x_RD.device)
        self.seen = x_BnD.detach().mean(0), idx_n
        targets = self.labelers.step(*global_batch(x_BnD.detach(), idx_n))
        losses = self.head.loss(x_BnD, self.labelers.centers, targets)
        return dict(losses, center_ce=self.labelers.center_loss)


def check_two_views(inputs: Tensor | list[Tensor]) -> list[Tensor]:
    """The views, if there are two of one size.

    Raises:
        ValueError: else.
    """
    views = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    sizes = [tuple(view.shape[-2:]) for view in views]
    if len(sizes) != 2 or sizes[0] != sizes[1]:
        raise ValueError(
            f'SeCu trains on two views of one size per image, but the pipeline made views of '
            f'{sizes}. Set views in RandomResizedCrops or in the data preprocessor accordingly.'
        )
    return views
