"""Linear classifiers of several clusterings."""

from collections.abc import Sequence

from mmengine.model import BaseModule
from torch import Tensor, nn

from mmcoke.registry import MODELS

from .cluster_cls_head import ClusterClsHead


@MODELS.register_module()
class SeLaHead(BaseModule):
    """A :class:`ClusterClsHead` per clustering, for SeLa.

    Args:
        in_channels: D, dimension of the features.
        num_clusters: K of each clustering.
        init_std: standard deviation of the first weights.

    Raises:
        ValueError: if a setting is out of its range.
    """

    def __init__(
        self, in_channels: int, num_clusters: Sequence[int], *, init_std: float = 0.01
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.classifiers = nn.ModuleList(
            ClusterClsHead(in_channels, k, init_std=init_std) for k in num_clusters
        )

    def forward(self, x_nD: Tensor) -> list[Tensor]:
        """Logits (n, K) of each clustering, of features (n, D)."""
        return [classifier(x_nD) for classifier in self.classifiers]

    def loss(self, x_nD: Tensor, labels: Sequence[Tensor]) -> dict[str, Tensor]:
        """Mean of the cross-entropies of the clusterings.

        Args:
            x_nD: features (n, D).
            labels: for each clustering, int64 (n,); images without one (``UNASSIGNED``) do not
                count.
        """
        losses = [
            classifier.loss(x_nD, label_n, x_nD.new_ones(classifier.fc_cls.out_features))['loss']
            for classifier, label_n in zip(self.classifiers, labels, strict=True)
        ]
        return dict(loss=sum(losses) / len(losses))
