"""The confident stage as an OpenMMLab algorithm."""

import torch
from torch import Tensor, nn

from mmcoke.clustering import SelfLabeler
from mmcoke.clustering.settings import check_number
from mmcoke.registry import MODELS

from .base import (
    ClusteringAlgorithm,
    explained_batch_norm,
    global_batch,
    output_width,
    sample_indices,
)


@MODELS.register_module()
class SelfLabel(ClusteringAlgorithm):
    """Training on the clusters that are sure, after any method: the last stage of SCAN and SPICE.

    Two views of an image: a weak one, whose cluster is the label if it is sure, and a strong one,
    which is to be recognized. Starts from the backbone and neck of a checkpoint (``load_from``);
    ``SelfLabelHook`` finds the first clusters.

    Args:
        backbone, neck, data_preprocessor, init_cfg: see :class:`ClusteringAlgorithm`; those of the
            method before. The preprocessor makes the weak view first.
        head: a :class:`CosineClusterHead`; ``in_channels`` and ``num_clusters`` are filled in.
        clustering: arguments of :class:`SelfLabeler` but for ``num_samples`` and ``dim``.
    """

    capturable = True

    def complete_head(self, head: dict, network: nn.Module, clustering: dict) -> dict:
        num_clusters = clustering.get('num_clusters')
        check_number('clustering.num_clusters', num_clusters, '[1, inf)', whole=True)
        width = head.get('in_channels') or output_width(network)
        return dict(head, in_channels=width, num_clusters=num_clusters)

    def make_labelers(self, num_samples: int) -> nn.ModuleList:
        labeler = SelfLabeler(num_samples, dim=self.head.in_channels, **self.clustering)
        return nn.ModuleList([labeler])

    def loss(self, inputs: list[Tensor], data_samples: list | Tensor) -> dict[str, Tensor]:
        """Classify strong views by the sure clusters of weak ones.

        Args:
            inputs: two views (n, C, H, W), the weak one first.
            data_samples: one per image, each with ``sample_idx``; or these indices, int64 (n,).

        Raises:
            ValueError: if there are not two views.
        """
        self.check_labelers()
        num_views = 1 if isinstance(inputs, Tensor) else len(inputs)
        if num_views != 2:
            raise ValueError(
                'SelfLabel trains on two views per image, a weak and a strong one, but the '
                f'pipeline made {num_views}. Set data_preprocessor.views=[weak, strong].'
            )
        weak, strong = inputs
        with explained_batch_norm():
            with torch.no_grad():
                x_nD = self.project(weak)
                prob_nK = self.head(x_nD).softmax(1)
            logits_nK = self.head(self.project(strong))
        idx_n = sample_indices(data_samples, weak.device)
        self.seen = x_nD, idx_n
        prob_NK, idx_N, own = global_batch(prob_nK, idx_n)
        return self.head.loss(logits_nK, self.labelers[0].step(prob_NK, idx_N)[own])
