"""A classifier by cosine similarity, which can start from the centers of clusters."""

import torch
from mmengine.dist import all_gather
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from mmcoke.clustering.pseudo_labels import UNASSIGNED
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
        """Mean cross-entropy of the images of the global batch that have a label; 0 without any.

        Args:
            logits_nK: of :meth:`forward`.
            label_n: clusters, int64 (n,); ``UNASSIGNED`` does not count.
        """
        loss_n = cross_entropy(logits_nK, label_n, reduction='none', ignore_index=UNASSIGNED)
        number = (label_n != UNASSIGNED).sum()
        # Divided by the mean number over processes, so that the mean loss is that of one process.
        mean_number = torch.stack(all_gather(number)).float().mean()
        return dict(loss=loss_n.sum() / mean_number.where(mean_number > 0, 1.0))
