"""The head of SeCu: its loss."""

from mmengine.model import BaseModule
from torch import Tensor

from mmcoke.clustering.settings import check_number
from mmcoke.losses import secu_loss
from mmcoke.registry import MODELS


@MODELS.register_module()
class SeCuHead(BaseModule):
    """Classifies the projections of two views against the published centers; no weights.

    Args:
        in_channels: D, dimension of the projection and so of the centers.
        temperature: T of the softmax over clusters.
        label_weight: share of the label in the target; the softmax of the other view has the rest.
        chunk_size: images whose loss is computed at a time, which bounds its memory; None for all.
            See :func:`~mmcoke.losses.coke_loss.cross_entropies`.
        init_cfg: see mmengine's ``BaseModule``.

    Raises:
        ValueError: if the width is no whole number above 0, the temperature not positive and
            finite, or the weight outside [0, 1].
    """

    def __init__(
        self,
        in_channels: int,
        *,
        temperature: float = 0.05,
        label_weight: float = 0.2,
        chunk_size: int | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_number('in_channels', in_channels, '[1, inf)', whole=True)
        check_number('temperature', temperature, '(0, inf)')
        check_number('label_weight', label_weight, '[0, 1]')
        if chunk_size is not None:
            check_number('chunk_size', chunk_size, '[1, inf)', whole=True)
        self.in_channels, self.temperature = in_channels, temperature
        self.label_weight, self.chunk_size = label_weight, chunk_size

    def loss(
        self, x_VnD: Tensor, centers: list[Tensor], targets: list[Tensor]
    ) -> dict[str, Tensor]:
        """The loss of the features.

        Args:
            x_VnD: L2-normalized projections of two views (2, n, D).
            centers: for each clustering, the published centers (K, D).
            targets: for each clustering, labels int64 (n,).

        Returns:
            ``loss``, a scalar.
        """
        loss = secu_loss(
            x_VnD,
            centers,
            targets,
            temperature=self.temperature,
            label_weight=self.label_weight,
            chunk_size=self.chunk_size,
        )
        return dict(loss=loss)
