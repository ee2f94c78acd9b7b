"""Classifiers that start from the backbone of a checkpoint, which they check."""

from collections.abc import Callable
from typing import Any

from mmpretrain.models import ImageClassifier
from torch import Tensor, nn

from mmcoke.registry import MODELS
from mmcoke.weights.pretrained import load_backbone, read_weights

from .algorithms.base import fill_in, output_width
from .stages import stage_outputs, stage_widths

__all__ = ['FrozenClassifier', 'FrozenStagesClassifier', 'PretrainedClassifier']


@MODELS.register_module()
class PretrainedClassifier(ImageClassifier):
    """Trains all of a pre-trained network on a labelled set.

    Args:
        backbone: its ``init_cfg=dict(type='Pretrained', checkpoint=...)`` names the checkpoint, in
            any layout that :func:`~mmcoke.features.backbones.load_frozen` reads.
        head: ``in_channels`` follows the backbone where it is not given.
        **kwargs: see mmpretrain's ``ImageClassifier``.
    """

    width: Callable[[nn.Module], Any] = staticmethod(output_width)
    """What ``in_channels`` of the head is for a backbone."""

    def __init__(self, backbone: dict, head: dict, **kwargs) -> None:
        backbone = MODELS.build(backbone)
        head = fill_in(head, in_channels=lambda: self.width(backbone))
        super().__init__(backbone, head=head, **kwargs)

    @property
    def checkpoint(self) -> str:
        """Path of the checkpoint.

        Raises:
            ValueError: if there is none.
        """
        init_cfg = self.backbone.init_cfg
        path = init_cfg.get('checkpoint') if isinstance(init_cfg, dict) else None
        if not path:
            raise ValueError(
                'There is no checkpoint: the backbone would keep random weights. Name one: '
                '--cfg-options model.backbone.init_cfg.checkpoint=/path/to/checkpoint.pth'
            )
        return path

    def init_weights(self) -> None:
        """Load the backbone; the head starts anew.

        Raises:
            OSError: if the checkpoint cannot be opened.
            ValueError: if there is none, it is damaged, or it has less than 90 % of the backbone.
        """
        load_backbone(self.backbone, read_weights(self.checkpoint), self.checkpoint)
        self.backbone.is_init = True  # mmengine's initializers leave it alone
        super().init_weights()


@MODELS.register_module()
class FrozenClassifier(PretrainedClassifier):
    """Trains the head only: linear evaluation.

    The backbone is in evaluation mode, so its BatchNorm keeps the statistics of pre-training, and
    gets no gradient. Arguments as of :class:`PretrainedClassifier`.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.backbone.requires_grad_(False)

    def train(self, mode: bool = True) -> 'FrozenClassifier':
        """Training mode for all but the backbone."""
        super().train(mode)
        self.backbone.eval()
        return self


@MODELS.register_module()
class FrozenStagesClassifier(FrozenClassifier):
    """Trains a head on all five feature maps of a frozen ResNet, such as ``MultiLinearHead``."""

    width = staticmethod(stage_widths)

    def extract_feat(self, inputs: Tensor, stage: str = 'neck') -> list[Tensor]:
        """The feature maps of images (n, 3, H, W), stem first."""
        return stage_outputs(self.backbone, inputs)
