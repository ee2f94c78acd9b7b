"""DeepCluster, ODC and SeLa as OpenMMLab algorithms."""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mmcoke.clustering import DeepClusterLabeler, ODCLabeler, SeLaLabeler
from mmcoke.clustering.settings import check_number
from mmcoke.registry import MODELS

from .base import (
    ClusteringAlgorithm,
    explained_batch_norm,
    global_batch,
    output_width,
    sample_indices,
)
from .coke import as_list


class ClassifierAlgorithm(ClusteringAlgorithm):
    """Learns to classify images by the labels of its labelers, one in most methods.

    Args:
        backbone, neck, data_preprocessor, init_cfg: see :class:`ClusteringAlgorithm`.
        head: a :class:`ClusterClsHead`; ``in_channels`` and ``num_clusters`` are filled in.
        clustering: arguments of the labeler but for ``num_samples`` and ``dim``.
    """

    def complete_head(self, head: dict, network: nn.Module, clustering: dict) -> dict:
        num_clusters = clustering.get('num_clusters')
        check_number('clustering.num_clusters', num_clusters, '[1, inf)', whole=True)
        width = head.get('in_channels') or output_width(network)
        return dict(head, in_channels=width, num_clusters=num_clusters)

    def loss(self, inputs: Tensor | list[Tensor], data_samples: list | Tensor) -> dict[str, Tensor]:
        """Classify images by their labels, weighted by the sizes of the clusters before the step.

        Args:
            inputs: images (n, C, H, W), or a list of one view.
            data_samples: one per image, each with ``sample_idx``; or these indices, int64 (n,).

        Raises:
            ValueError: if there is more than one view.
        """
        self.check_labelers()
        views = [inputs] if isinstance(inputs, Tensor) else inputs
        if len(views) != 1:
            raise ValueError(
                f'{type(self).__name__} trains on one view per image, but the pipeline made '
                f'{len(views)}.'
            )
        with explained_batch_norm():
            x_nD = self.project(views[0])
        self.seen = x_nD.detach(), sample_indices(data_samples, x_nD.device)
        return self.classify(x_nD, self.seen[1])

    def classify(self, x_nD: Tensor, idx_n: Tensor) -> dict[str, Tensor]:
        """The loss of the own images, of their features (n, D) and indices (n,)."""
        weight_K = self.labelers[0].cluster_weight()
        return self.head.loss(x_nD, self.read_labels(x_nD.detach(), idx_n), weight_K)

    def read_labels(self, x_nD: Tensor, idx_n: Tensor) -> Tensor:
        """Labels of the own images, int64 (n,); the labeler may learn from their features."""
        raise NotImplementedError


@MODELS.register_module()
class DeepCluster(ClassifierAlgorithm):
    """Pre-training by classifying images by k-means of their features (Caron et al., ECCV 2018).

    ``DeepClusterHook`` clusters the features of all images and resets the classifier.
    """

    def make_labelers(self, num_samples: int) -> nn.ModuleList:
        return nn.ModuleList([DeepClusterLabeler(num_samples, **self.clustering)])

    def read_labels(self, x_nD: Tensor, idx_n: Tensor) -> Tensor:
        return self.labelers[0].step(x_nD, idx_n)


@MODELS.register_module()
class ODC(ClassifierAlgorithm):
    """Pre-training by online deep clustering (Zhan et al., CVPR 2020).

    Labels and centroids follow a memory of the features; ``ODCHook`` fills it by k-means before
    training, and updates the centroids.
    """

    def make_labelers(self, num_samples: int) -> nn.ModuleList:
        labeler = ODCLabeler(num_samples, dim=self.head.in_channels, **self.clustering)
        return nn.ModuleList([labeler])

    @torch.no_grad()
    def read_labels(self, x_nD: Tensor, idx_n: Tensor) -> Tensor:
        x_ND, idx_N, own = global_batch(normalize(x_nD.float(), dim=1), idx_n)
        return self.labelers[0].step(x_ND, idx_N)[own]


@MODELS.register_module()
class SeLa(ClassifierAlgorithm):
    """Pre-training by classifying images by labels of equal shares (Asano et al., ICLR 2020).

    ``SeLaHook`` labels all images from the classifiers' own scores. Each clustering has a labeler
    and a classifier.

    Args:
        backbone, neck, data_preprocessor, init_cfg: see :class:`ClusteringAlgorithm`.
        head: a :class:`SeLaHead`; ``in_channels`` and ``num_clusters`` are filled in.
        clustering: arguments of :class:`SeLaLabeler` but for ``num_samples``; ``num_clusters`` is a
            list, one number per clustering.
    """

    capturable = True

    def complete_head(self, head: dict, network: nn.Module, clustering: dict) -> dict:
        num_clusters = as_list(clustering.get('num_clusters'))
        if not num_clusters:
            raise ValueError('clustering.num_clusters is empty: name one number per clustering.')
        for number in num_clusters:
            check_number('clustering.num_clusters', number, '[1, inf)', whole=True)
        width = head.get('in_channels') or output_width(network)
        return dict(head, in_channels=width, num_clusters=num_clusters)

    def make_labelers(self, num_samples: int) -> nn.ModuleList:
        settings = {k: v for k, v in self.clustering.items() if k != 'num_clusters'}
        sizes = as_list(self.clustering['num_clusters'])
        return nn.ModuleList(SeLaLabeler(num_samples, k, **settings) for k in sizes)

    def classify(self, x_nD: Tensor, idx_n: Tensor) -> dict[str, Tensor]:
        labels = [labeler.step(x_nD.detach(), idx_n) for labeler in self.labelers]
        return self.head.loss(x_nD, labels)
