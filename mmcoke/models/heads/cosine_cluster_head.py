"""A classifier by cosine similarity, which can start from the centers of clusters."""

import torch
from mmengine.dist import all_gather
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from mmcoke.clustering import UNASSIGNED, cluster_weight
from mmcoke.clustering.online_kmeans import cluster_sizes
from mmcoke.clustering.settings import check_number
from mmcoke.registry import MODELS


@MODELS.register_module()
class CosineClusterHead(BaseModule):
    """Classifies features by their similarity to learned centers.

    Args:
        in_channels: D, dimension of the features.
        num_clusters: K.
        temperature: similarities are divided by it.

    Raises:
        ValueError: if a setting is out of its range.
    """

    def __init__(self, in_channels: int, num_clusters: int, *, temperature: float = 0.1) -> None:
        super().__init__()
        check_number('in_channels', in_channels, '[1, inf)', whole=True)
        check_number('num_clusters', num_clusters, '[1, inf)', whole=True)
        check_number('temperature', temperature, '(0, inf)')
        self.in_channels, self.temperature = in_channels, temperature
        self.weight = nn.Parameter(torch.empty(num_clusters, in_channels))
        self.init_weights()

    def init_weights(self) -> None:
        """Random directions, until there are centers."""
        nn.init.normal_(self.weight)

    @torch.no_grad()
    def start_from(self, centers_KD: Tensor) -> None:
        """Classify by these centers (K, D) from now on."""
        self.weight.copy_(centers_KD)

    def forward(self, x_nD: Tensor) -> Tensor:
        """Logits, float32 (n, K) of features (n, D), outside autocast."""
        with torch.autocast(x_nD.device.type, enabled=False):
            x_nD, weight_KD = (normalize(x.float(), dim=1) for x in (x_nD, self.weight))
            return x_nD @ weight_KD.T / self.temperature

    def loss(self, logits_nK: Tensor, label_n: Tensor) -> dict[str, Tensor]:
        """Cross-entropy, the mean over clusters of the mean over their images; 0 without any.

        So each cluster that has labels in the global batch counts alike, as in SCAN (Van Gansbeke
        et al., ECCV 2020).

        Args:
            logits_nK: of :meth:`forward`.
            label_n: clusters, int64 (n,); ``UNASSIGNED`` does not count.
        """
        weight_K, mean_sum = self._equal_say(label_n)
        options = dict(weight=weight_K, reduction='none', ignore_index=UNASSIGNED)
        return dict(loss=cross_entropy(logits_nK, label_n, **options).sum() / mean_sum)

    def _equal_say(self, label_n: Tensor) -> tuple[Tensor, Tensor]:
        """Weight of each cluster in the global batch (K,), and its sum over images per process.

        The sum divides the loss, so that the mean loss over processes is that of one process.
        """
        num_clusters = len(self.weight)
        # One more cluster, behind, for images without a label: no shape depends on values.
        place_n = label_n.where(label_n != UNASSIGNED, num_clusters)
        sizes = all_gather(cluster_sizes(place_n[None], num_clusters + 1)[:-1])
        size_K = torch.stack(sizes).sum(0)
        num_present = (size_K > 0).sum()
        return cluster_weight(size_K, 1.0), num_present.clamp(min=1) / len(sizes)
