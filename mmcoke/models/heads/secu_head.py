"""The head of SeCu: its loss and, for ImageNet, a predictor."""

import torch
from mmengine.model import BaseModule
from torch import Tensor
from torch.nn.functional import normalize

from mmcoke.clustering.settings import check_number
from mmcoke.losses import secu_loss
from mmcoke.registry import MODELS

from .coke_head import make_predictor


@MODELS.register_module()
class SeCuHead(BaseModule):
    """Classifies two views of the images against the published centers.

    Args:
        in_channels: D, dimension of the projection and so of the centers.
        hid_channels: width of the predictor (linear, BN, ReLU, linear), whose predictions are
            clustered and classified beside the projections; None for no predictor.
        temperature: T of the softmax over clusters.
        label_weight: share of the label in the target; the softmax of the other view has the rest.
        chunk_size: images whose loss is computed at a time, which bounds its memory; None for all.
            See :func:`~mmcoke.losses.coke_loss.cross_entropies`.
        norm_cfg: norm layer of the predictor.
        init_cfg: see mmengine's ``BaseModule``.

    Raises:
        ValueError: if a width is no whole number above 0, the temperature not positive and finite,
            or the weight outside [0, 1].
    """

    def __init__(
        self,
        in_channels: int,
        hid_channels: int | None = None,
        *,
        temperature: float = 0.05,
        label_weight: float = 0.2,
        chunk_size: int | None = None,
        norm_cfg: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_number('in_channels', in_channels, '[1, inf)', whole=True)
        check_number('temperature', temperature, '(0, inf)')
        check_number('label_weight', label_weight, '[0, 1]')
        for name, number in dict(hid_channels=hid_channels, chunk_size=chunk_size).items():
            if number is not None:
                check_number(name, number, '[1, inf)', whole=True)
        self.in_channels, self.temperature = in_channels, temperature
        self.label_weight, self.chunk_size = label_weight, chunk_size
        self.predictor = None
        if hid_channels is not None:
            self.predictor = make_predictor(in_channels, hid_channels, norm_cfg)

    def forward(self, projections: list[Tensor]) -> Tensor:
        """What is clustered and classified: L2-normalized, float32.

        Args:
            projections: of each pass through the network, not normalized (n, D). BN of the
                predictor sees one at a time.

        Returns:
            The rows of all projections and, with a predictor, of all predictions, (R, D).
        """
        branches = list(projections)
        if self.predictor is not None:
            branches += [self.predictor((x_nD,))[0] for x_nD in projections]
        return normalize(torch.cat(branches).float(), dim=1)

    def loss(
        self, x_BnD: Tensor, centers: list[Tensor], targets: list[Tensor]
    ) -> dict[str, Tensor]:
        """The loss of the features.

        Args:
            x_BnD: of two views, from :meth:`forward`.
            centers: for each clustering, the published centers (K, D).
            targets: for each clustering, labels int64 (n,).

        Returns:
            ``loss``, a scalar.
        """
        loss = secu_loss(
            x_BnD,
            centers,
            targets,
            temperature=self.temperature,
            label_weight=self.label_weight,
            chunk_size=self.chunk_size,
        )
        return dict(loss=loss)
