"""What the benchmarks add to detectors of mmdetection; it needs mmdet, so only configs import it.

In a config: ``custom_imports = dict(imports=['mmcoke.models.detection'])``.
"""

from typing import Any

from mmcv.cnn import build_norm_layer
from mmdet.models.backbones import ResNet
from mmdet.models.roi_heads.shared_heads import ResLayer
from torch import Tensor

from mmcoke.registry import MODELS


@MODELS.register_module()
class ResLayerExtraNorm(ResLayer):
    """The last stage of a ResNet as a head of RoIs, with one more batch norm after it.

    So the C4 detectors of the MoCo paper (He et al., CVPR 2020) take up features that were not
    trained with labels, and so do OpenMMLab's. The norm is new: no checkpoint has it.

    Args:
        depth: of the ResNet. All others are those of mmdetection's ``ResLayer``.
    """

    def __init__(self, depth: int, **kwargs: Any) -> None:
        super().__init__(depth, **kwargs)
        block, _ = ResNet.arch_settings[depth]
        _, self.norm = build_norm_layer(self.norm_cfg, 64 * 2**self.stage * block.expansion)

    def forward(self, x: Tensor) -> Tensor:
        """Maps of RoIs, of ResNet-50 (R, 1024, 14, 14) → (R, 2048, 7, 7)."""
        return self.norm(super().forward(x))
