"""The head of SwAV: prototypes and loss."""

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.functional import normalize

from mmcoke.clustering.settings import check_number
from mmcoke.losses import swapped_prediction_loss
from mmcoke.registry import MODELS


@MODELS.register_module()
class SwAVHead(BaseModule):
    """Prototypes that are learned, and the prediction of codes from them.

    In an iteration: :meth:`normalize_prototypes`, codes from ``prototypes.weight``, :meth:`loss`.

    Args:
        in_channels: D, dimension of the projection and so of the prototypes.
        num_clusters: K, number of prototypes.
        temperature: T of the softmax over prototypes.
        freeze_epochs: first epochs in which the prototypes stay as they are; :meth:`set_epoch` says
            which epoch it is. Set ``decay_mult=0`` for ``head.prototypes`` in ``paramwise_cfg``,
            for weight decay would change their lengths.
        init_cfg: see mmengine's ``BaseModule``.

    Raises:
        ValueError: if a setting is out of its range.
    """

    def __init__(
        self,
        in_channels: int,
        num_clusters: int,
        *,
        temperature: float = 0.1,
        freeze_epochs: int = 1,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_number('in_channels', in_channels, '[1, inf)', whole=True)
        check_number('num_clusters', num_clusters, '[1, inf)', whole=True)
        check_number('temperature', temperature, '(0, inf)')
        check_number('freeze_epochs', freeze_epochs, '[0, inf)', whole=True)
        self.in_channels, self.temperature = in_channels, temperature
        self.freeze_epochs = freeze_epochs
        self.prototypes = nn.Linear(in_channels, num_clusters, bias=False)
        # 0 while the prototypes are frozen: a tensor, because it changes within a CUDA graph. Their
        # gradient is then 0, not None, which DistributedDataParallel would wait for.
        self.register_buffer('grad_scale', torch.ones(()), persistent=False)

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch, numbered from 0, or go on within it."""
        self.grad_scale.fill_(epoch >= self.freeze_epochs)

    @torch.no_grad()
    def normalize_prototypes(self) -> Tensor:
        """Bring the prototypes back to length 1, in place; (K, D)."""
        weight = self.prototypes.weight
        return weight.copy_(normalize(weight, dim=1)).detach()

    def forward(self, projection_nD: Tensor) -> Tensor:
        """Cosine similarities (n, K) of projections (n, D) to the prototypes, float32."""
        weight_KD = self.prototypes.weight
        with torch.autocast(projection_nD.device.type, enabled=False):
            fixed_KD = weight_KD.detach()
            weight_KD = fixed_KD + self.grad_scale * (weight_KD - fixed_KD)
            return normalize(projection_nD.float(), dim=1) @ weight_KD.T

    def loss(self, projections: list[Tensor], code_VnK: Tensor) -> dict[str, Tensor]:
        """The loss of the swapped prediction.

        Args:
            projections: for each view, what the neck gives (n, D); full-size views first.
            code_VnK: for each full-size view, the codes (n, K).
        """
        sizes = [len(x_nD) for x_nD in projections]
        scores = self(torch.cat(projections)).split(sizes)
        return dict(loss=swapped_prediction_loss(scores, code_VnK, temperature=self.temperature))
