"""DeepCluster-v2 as an OpenMMLab algorithm."""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mmcoke.clustering import DeepClusterV2Labeler
from mmcoke.clustering.settings import check_flag
from mmcoke.registry import MODELS

from .base import (
    ClusteringAlgorithm,
    explained_batch_norm,
    global_batch,
    output_width,
    sample_indices,
)
from .coke import as_list, by_size, check_clustering


@MODELS.register_module()
class DeepClusterV2(ClusteringAlgorithm):
    """Pre-training by k-means of the last epoch's features (Caron et al., NeurIPS 2020).

    All crops of an image are classified by the centers and the label that the last epoch gave;
    ``DeepClusterV2Hook`` clusters when an epoch ends.

    Args:
        backbone, neck, data_preprocessor, init_cfg: see :class:`ClusteringAlgorithm`.
        head: a :class:`CentroidHead`; ``in_channels`` is filled in.
        clustering: arguments of :class:`DeepClusterV2Labeler` but for ``num_samples`` and ``dim``.
        joint_views: pass consecutive views of one size through the network in one batch, so that BN
            normalizes them with common statistics.
    """

    capturable = True

    def __init__(
        self, backbone: dict, neck: dict, head: dict, *, joint_views: bool = False, **kwargs
    ) -> None:
        super().__init__(backbone, neck, head, **kwargs)
        check_clustering(self.clustering)
        check_flag('joint_views', joint_views)
        self.joint_views = joint_views

    def complete_head(self, head: dict, network: nn.Module, clustering: dict) -> dict:
        return dict(head, in_channels=head.get('in_channels') or output_width(network))

    def make_labelers(self, num_samples: int) -> DeepClusterV2Labeler:
        settings = dict(self.clustering, num_clusters=as_list(self.clustering['num_clusters']))
        return DeepClusterV2Labeler(num_samples, dim=self.head.in_channels, **settings)

    def loss(self, inputs: Tensor | list[Tensor], data_samples: list | Tensor) -> dict[str, Tensor]:
        """Classify the crops of the images by their labels of the last epoch.

        Args:
            inputs: images (n, C, H, W), or a list of views. Those of the first one's size are
                clustered; all are classified. Each passes backbone and neck on its own, in order,
                unless ``joint_views``.
            data_samples: one per image, each with ``sample_idx``; or these indices, int64 (n,).
        """
        views = [inputs] if isinstance(inputs, Tensor) else inputs
        with explained_batch_norm():
            groups = by_size(views) if self.joint_views else [[view] for view in views]
            projections = [
                x_nD
                for group in groups
                for x_nD in self.project(torch.cat(group)).chunk(len(group))
            ]
        is_full = [view.shape == views[0].shape for view in views]
        full = [x_nD for x_nD, clustered in zip(projections, is_full, strict=True) if clustered]
        targets = self._targets(full, sample_indices(data_samples, views[0].device))
        return self.head.loss(projections, self.labelers.centers, targets)

    @torch.no_grad()
    def _targets(self, projections: list[Tensor], idx_n: Tensor) -> list[Tensor]:
        """Labels of the own images; the memory gets the mean of the full-size views, normalized."""
        self.check_labelers()
        units = [normalize(x_nD.detach().float(), dim=1) for x_nD in projections]
        self.seen = normalize(torch.stack(units).mean(0), dim=1), idx_n
        return self.labelers.step(*global_batch(*self.seen))
