"""SwAV as an OpenMMLab algorithm."""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mmcoke.clustering import SwAVLabeler
from mmcoke.clustering.settings import check_number
from mmcoke.registry import MODELS

from .base import ClusteringAlgorithm, explained_batch_norm, global_batch, sample_indices
from .coke import by_size


@MODELS.register_module()
class SwAV(ClusteringAlgorithm):
    """Pre-training by predicting the cluster of one view from another (Caron et al., NeurIPS 2020).

    The labeler (codes, queue: a :class:`SwAVLabeler`) needs the size of the data set; ``SwAVHook``
    calls :meth:`init_labelers` when training starts. As published, consecutive views of one size
    pass through the network in one batch, so BN normalizes them together.

    Args:
        backbone, neck, data_preprocessor, init_cfg: see :class:`ClusteringAlgorithm`.
        head: has ``in_channels``, the dimension of the projection; ``num_clusters`` is filled in.
        clustering: arguments of :class:`SwAVLabeler` but for ``num_samples`` and ``dim``.
    """

    capturable = True

    def complete_head(self, head: dict, network: nn.Module, clustering: dict) -> dict:
        num_clusters = clustering.get('num_clusters')
        check_number('clustering.num_clusters', num_clusters, '[1, inf)', whole=True)
        return dict(head, num_clusters=num_clusters)

    def make_labelers(self, num_samples: int) -> nn.ModuleList:
        labeler = SwAVLabeler(num_samples, dim=self.head.in_channels, **self.clustering)
        return nn.ModuleList([labeler])

    def loss(self, inputs: list[Tensor], data_samples: list | Tensor) -> dict[str, Tensor]:
        """Loss of two full-size views and any number of small crops; steps the labeler.

        Args:
            inputs: views (n, C, H, W), those of full size first.
            data_samples: one per image, each with ``sample_idx``; or these indices, int64 (n,).

        Raises:
            ValueError: if there are not two views of full size, or no labeler.
        """
        self.check_labelers()
        check_views(inputs)
        projections = []
        with explained_batch_norm():
            for group in by_size(inputs):
                projections += self.project(torch.cat(group)).chunk(len(group))
        code_VnK = self._codes(projections[:2], sample_indices(data_samples, inputs[0].device))
        return self.head.loss(projections, code_VnK)

    @torch.no_grad()
    def _codes(self, projections: list[Tensor], idx_n: Tensor) -> Tensor:
        """Codes of the own images (2, n, K): those of the global batch, of which they are rows."""
        units = [normalize(x_nD.detach().float(), dim=1) for x_nD in projections]
        self.seen = units[0], idx_n
        x_VND, idx_N, own = global_batch(torch.stack(units), idx_n)
        prototypes_KD = self.head.normalize_prototypes()
        return self.labelers[0].step(x_VND, idx_N, prototypes_KD, own)


def check_views(views: list[Tensor] | Tensor) -> None:
    """ValueError unless the first two views, and no others, are of full size."""
    sizes = [tuple(view.shape[-2:]) for view in ([views] if isinstance(views, Tensor) else views)]
    if len(sizes) < 2 or sizes[1] != sizes[0] or sizes[0] in sizes[2:]:
        raise ValueError(
            'SwAV trains on two views per image of full size, followed by any number of small '
            f'crops, but the pipeline made views of {sizes}. Set views in RandomResizedCrops or in '
            'BatchAugmentPreprocessor accordingly.'
        )
