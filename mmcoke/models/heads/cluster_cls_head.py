"""A linear classifier of pseudo-labels."""

import torch
from mmengine.dist import all_gather
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mmcoke.clustering.pseudo_labels import UNASSIGNED
from mmcoke.clustering.settings import check_number
from mmcoke.registry import MODELS


@MODELS.register_module()
class ClusterClsHead(BaseModule):
    """Classifies features by their clusters, for DeepCluster and ODC.

    Args:
        in_channels: D, dimension of the features.
        num_clusters: K.
        init_std: standard deviation of the first weights.

    Raises:
        ValueError: if a setting is out of its range.
    """

    def __init__(self, in_channels: int, num_clusters: int, *, init_std: float = 0.01) -> None:
        super().__init__()
        check_number('in_channels', in_channels, '[1, inf)', whole=True)
        check_number('num_clusters', num_clusters, '[1, inf)', whole=True)
        check_number('init_std', init_std, '[0, inf)')
        self.in_channels, self.init_std = in_channels, init_std
        self.fc_cls = nn.Linear(in_channels, num_clusters)

    def init_weights(self) -> None:
        """First weights, from torch's own random numbers."""
        self.reset(int(torch.randint(1 << 31, ())))

    @torch.no_grad()
    def reset(self, seed: int) -> None:
        """Start anew: small random weights, the same on all processes and devices, no bias."""
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(self.fc_cls.weight.shape, generator=generator)
        self.fc_cls.weight.copy_(self.init_std * weight)
        self.fc_cls.bias.zero_()

    def forward(self, x_nD: Tensor) -> Tensor:
        """Logits (n, K) of features (n, D)."""
        return self.fc_cls(x_nD)

    def loss(self, x_nD: Tensor, label_n: Tensor, weight_K: Tensor) -> dict[str, Tensor]:
        """Weighted cross-entropy over the sum of the weights of the global batch.

        So its size does not depend on K or on the scale of the weights (K equal clusters and an
        untrained classifier: ln K), and the mean over processes is the loss of one process.

        Args:
            x_nD: features (n, D).
            label_n: clusters, int64 (n,); images without one (``UNASSIGNED``) do not count.
            weight_K: weight of each cluster (K,).
        """
        weight_n = weight_K[label_n.clamp(min=0)] * (label_n != UNASSIGNED)
        total = torch.stack(all_gather(weight_n.sum())).mean()
        logits_nK = self(x_nD).float()
        loss_n = cross_entropy(logits_nK, label_n, reduction='none', ignore_index=UNASSIGNED)
        # Without any label in the global batch the loss is 0, not 0 / 0.
        return dict(loss=(weight_n * loss_n).sum() / total.where(total > 0, 1.0))
