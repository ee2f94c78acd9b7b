"""Linear classifiers of all stages of a network at once."""

from collections.abc import Sequence

import torch
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from mmpretrain.structures import DataSample
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mmcoke.clustering.settings import check_number
from mmcoke.models.stages import POOLED_SIZE, pool_stage
from mmcoke.registry import MODELS


@MODELS.register_module()
class MultiLinearHead(BaseModule):
    """One linear classifier for each stage of a frozen ResNet, trained side by side.

    Each map is pooled to about 9,000 numbers, normalized without learned scale and classified
    (Goyal et al., ICCV 2019; the recipe is OpenMMLab's). As the network is frozen and the losses
    are added up, the classifiers do not affect each other.

    Args:
        num_classes: K.
        in_channels: channels of the stages, stem first; :class:`FrozenStagesClassifier` knows them.
        norm_cfg: norm layer in front of the classifiers.
        init_std: standard deviation of the first weights.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: Sequence[int],
        *,
        norm_cfg: dict | None = None,
        init_std: float = 0.01,
    ) -> None:
        check_number('num_classes', num_classes, '[1, inf)', whole=True)
        check_number('init_std', init_std, '[0, inf)')
        super().__init__(init_cfg=dict(type='Normal', layer='Linear', std=init_std))
        self.num_classes = num_classes
        norm_cfg = norm_cfg or dict(type='SyncBN', affine=False)
        self.norms = nn.ModuleList(build_norm_layer(norm_cfg, width)[1] for width in in_channels)
        self.fcs = nn.ModuleList(
            nn.Linear(width * side**2, num_classes)
            for width, side in zip(in_channels, POOLED_SIZE, strict=True)
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Logits (n, K) of each stage for its feature maps (n, C, h, w)."""
        layers = zip(maps, self.norms, self.fcs, strict=True)
        return [
            fc(norm(pool_stage(x, stage)).flatten(1)) for stage, (x, norm, fc) in enumerate(layers)
        ]

    def loss(self, maps: Sequence[Tensor], data_samples: list[DataSample]) -> dict[str, Tensor]:
        """Cross-entropy of each stage, ``loss_stage0`` ..., which mmengine adds up."""
        label_n = torch.cat([sample.gt_label for sample in data_samples])
        return {
            f'loss_stage{stage}': cross_entropy(logits_nK.float(), label_n)
            for stage, logits_nK in enumerate(self(maps))
        }

    def predict(
        self, maps: Sequence[Tensor], data_samples: list[DataSample] | None = None
    ) -> list[DataSample]:
        """Data samples with ``stage_logits`` (stages, K), for ``MultiHeadAccuracy``."""
        logits_nSK = torch.stack(self(maps), dim=1)
        data_samples = data_samples or [DataSample() for _ in logits_nSK]
        for sample, logits_SK in zip(data_samples, logits_nSK, strict=True):
            sample.set_field(logits_SK, 'stage_logits', dtype=Tensor)
        return data_samples
