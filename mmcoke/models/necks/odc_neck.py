"""The neck of ODC."""

import torch
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmcoke.clustering.settings import check_number
from mmcoke.registry import MODELS


@MODELS.register_module()
class ODCNeck(BaseModule):
    """Linear, BN without affine, ReLU, dropout, linear, ReLU (Zhan et al., CVPR 2020).

    Its keys are those of ODC checkpoints from OpenMMLab.

    Args:
        in_channels: of the backbone's last feature map, which is averaged over space.
        hid_channels, out_channels: of the linear layers.
        dropout: share of the hidden units that are dropped in training.
        norm_cfg: norm layer; momentum 0.001 and no affine parameters unless it says otherwise.
        init_cfg: see mmengine's ``BaseModule``.

    Raises:
        ValueError: if a setting is out of its range.
    """

    def __init__(
        self,
        in_channels: int,
        hid_channels: int = 512,
        out_channels: int = 256,
        *,
        dropout: float = 0.5,
        norm_cfg: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_number('in_channels', in_channels, '[1, inf)', whole=True)
        check_number('hid_channels', hid_channels, '[1, inf)', whole=True)
        check_number('out_channels', out_channels, '[1, inf)', whole=True)
        check_number('dropout', dropout, '[0, 1]')
        norm_cfg = dict(momentum=0.001, affine=False) | (norm_cfg or dict(type='SyncBN'))
        self.fc0 = nn.Linear(in_channels, hid_channels)
        self.bn0 = build_norm_layer(norm_cfg, hid_channels)[1]
        self.dropout = nn.Dropout(dropout)
        self.fc1 = nn.Linear(hid_channels, out_channels)

    def forward(self, feature_maps: tuple[Tensor, ...]) -> tuple[Tensor]:
        """Feature maps, the last one (n, C, h, w) → features (n, out_channels), in a tuple."""
        x = feature_maps[-1]
        x = x.mean((2, 3)) if x.ndim == 4 else x
        x = self.dropout(torch.relu(self.bn0(self.fc0(x))))
        return (torch.relu(self.fc1(x)),)
