"""Classification by the centers of a clustering."""

import torch
from mmengine.model import BaseModule
from torch import Tensor
from torch.nn.functional import normalize

from mmcoke.clustering.settings import check_number
from mmcoke.losses.coke_loss import cross_entropies
from mmcoke.registry import MODELS


@MODELS.register_module()
class CentroidHead(BaseModule):
    """Classifies projections by their similarities to centers that are given: nothing is learned.

    Args:
        in_channels: D, dimension of the projection and so of the centers.
        temperature: T of the softmax over clusters.
        chunk_size: images whose loss is computed at a time, which bounds its memory; None for all.
            See :func:`~mmcoke.losses.coke_loss.cross_entropies`.

    Raises:
        ValueError: if a setting is out of its range.
    """

    def __init__(
        self, in_channels: int, *, temperature: float = 0.1, chunk_size: int | None = None
    ) -> None:
        super().__init__()
        check_number('in_channels', in_channels, '[1, inf)', whole=True)
        check_number('temperature', temperature, '(0, inf)')
        if chunk_size is not None:
            check_number('chunk_size', chunk_size, '[1, inf)', whole=True)
        self.in_channels, self.temperature = in_channels, temperature
        self.chunk_size = chunk_size

    def loss(
        self, projections: list[Tensor], centers: list[Tensor], targets: list[Tensor]
    ) -> dict[str, Tensor]:
        """Mean cross-entropy over samples, views and clusterings.

        Args:
            projections: for each view, what the neck gives (n, D).
            centers: for each clustering, unit vectors (K, D).
            targets: for each clustering, labels int64 (n,).
        """
        x_VnD = torch.stack([normalize(x_nD.float(), dim=1) for x_nD in projections])
        options = dict(temperature=self.temperature, chunk_size=self.chunk_size)
        return dict(loss=cross_entropies(x_VnD, centers, targets, **options).mean())
