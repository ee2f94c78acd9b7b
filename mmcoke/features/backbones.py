"""Frozen networks of any config and checkpoint."""

import inspect
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from mmpretrain.models import BaseClassifier
from torch import Tensor, nn

from mmcoke.messages import some
from mmcoke.models.algorithms.base import fill_in, output_width
from mmcoke.models.stages import NUM_STAGES, has_stages, pool_stage, stage_outputs
from mmcoke.registry import MODELS
from mmcoke.weights.pretrained import (
    below,
    find_prefix,
    load_backbone,
    load_weights,
    read_weights,
    weights_of,
)
from mmcoke.zoo.index import index_file

__all__ = [
    'NUM_STAGES',
    'FrozenNetwork',
    'find_prefix',
    'has_stages',
    'load_frozen',
    'pool_stage',
    'read_config',
    'stage_outputs',
    'weights_of',
]


class FrozenNetwork(BaseModel):
    """A network that is measured and not trained, in evaluation mode.

    Args:
        data_preprocessor: normalizes images of 0 ... 255.
        backbone: from images (n, C, H, W) to a tuple of feature maps.
        neck: from such a tuple to a tuple with projections (n, D); None if there is none, or the
            checkpoint has no weights for it.
        takes_bgr: whether the data preprocessor expects the channels in the order B, G, R.
        origin: what the network was made of, for the records.
    """

    def __init__(
        self,
        data_preprocessor: nn.Module,
        backbone: nn.Module,
        neck: nn.Module | None = None,
        *,
        takes_bgr: bool = False,
        origin: dict[str, str] | None = None,
    ) -> None:
        super().__init__(data_preprocessor)
        self.backbone, self.neck = backbone, neck
        self.takes_bgr, self.origin = takes_bgr, origin or {}
        self.eval().requires_grad_(False)

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = 'tensor') -> tuple:
        """The backbone's own feature maps."""
        return self.backbone(inputs)


def load_frozen(
    config: str | Path | Config, checkpoint: str | Path, *, min_matched: float = 0.9
) -> FrozenNetwork:
    """The network of a config with the weights of a checkpoint; logs how many keys matched.

    Args:
        config: of mmcoke, mmpretrain or mmselfsup: a file, a name such as
            ``mmpretrain::resnet/resnet50_8xb32_in1k.py`` or
            ``mmcoke::selfsup/coke/coke_r50_8xb64_in1k.py``, or a loaded config.
        checkpoint: of those, of torchvision, or of other code with torchvision's names: a state
            dict, alone or below ``state_dict`` or ``model``, whatever stands before the names.
        min_matched: smallest share of the backbone's keys that the checkpoint must have.

    Raises:
        OSError: if a file cannot be opened.
        ValueError: if the config describes no backbone, the checkpoint cannot be read, fewer keys
            match, or a weight is of another shape.
    """
    cfg = read_config(config)
    weights = read_weights(checkpoint)
    with scope_of(cfg):
        backbone = MODELS.build(cfg.model.backbone)
        preprocessor_cfg = preprocessor_config(cfg)
        preprocessor = MODELS.build(preprocessor_cfg)
    prefix, said = load_backbone(backbone, weights, checkpoint, min_matched=min_matched)
    return FrozenNetwork(
        preprocessor,
        backbone,
        load_neck(cfg, backbone, weights, prefix),
        takes_bgr=takes_bgr(preprocessor_cfg),
        origin=dict(config=str(cfg.filename), checkpoint=str(checkpoint), keys=said),
    )


# ---- config


def read_config(config: str | Path | Config) -> Config:
    """A loaded config that describes a backbone; see :func:`load_frozen`."""
    if not isinstance(config, Config):
        config = packaged_config(config) if '::' in str(config) else Config.fromfile(config)
    if not config.get('model', {}).get('backbone'):
        raise ValueError(
            f'{config.filename} describes no model with a backbone. Give the config that the '
            'checkpoint was trained with.'
        )
    return config


def packaged_config(name: str) -> Config:
    """The config ``PACKAGE::NAME`` of an installed package of OpenMMLab, or of mmcoke.

    Raises:
        ValueError: if mmengine knows no such package, or it has no such config.
    """
    package, _, path = str(name).partition('::')
    if package == 'mmcoke':
        return Config.fromfile(index_file().parent / 'configs' / path)
    try:
        return get_config(name)
    except (AssertionError, ValueError) as error:
        raise ValueError(f'{name} is no config: {error}') from error


def scope_of(cfg: Config) -> AbstractContextManager:
    """Where names of a config are looked up: mmcoke's registries have all of mmpretrain's."""
    scope = cfg.get('default_scope') or 'mmcoke'
    return DefaultScope.overwrite_default_scope('mmcoke' if scope == 'mmpretrain' else scope)


def preprocessor_config(cfg: Config) -> dict:
    """Config of the data preprocessor, with the type that the model gives it by default."""
    with MODELS.switch_scope_and_registry(None) as registry:  # as MODELS.build looks it up
        model = cfg.model.get('type')
        model = model if inspect.isclass(model) else registry.get(model)
    classifies = inspect.isclass(model) and issubclass(model, BaseClassifier)
    default = 'ClsDataPreprocessor' if classifies else 'SelfSupDataPreprocessor'
    found = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    return dict(type=default) | dict(found)


def takes_bgr(preprocessor: dict) -> bool:
    """Whether a data preprocessor expects channels as OpenCV loads them.

    It does if it turns them round, or if it leaves them and its mean does not fall, as ImageNet's
    does in the order R, G, B.
    """
    if preprocessor.get('to_rgb') or preprocessor.get('bgr_to_rgb'):
        return True
    mean = preprocessor.get('mean') or [0]
    return mean[0] <= mean[-1] and not preprocessor.get('rgb_to_bgr')


# ---- weights


def load_neck(
    cfg: Config, backbone: nn.Module, weights: dict[str, Tensor], prefix: str
) -> nn.Module | None:
    """The config's neck with the checkpoint's weights; None if the checkpoint lacks any of them."""
    if not cfg.model.get('neck'):
        return None
    with scope_of(cfg):
        neck_cfg = cfg.model.neck
        if isinstance(neck_cfg, dict):
            neck_cfg = fill_in(neck_cfg, in_channels=lambda: output_width(backbone))
        neck = MODELS.build(neck_cfg)
    prefix = prefix.removesuffix('backbone.') + 'neck.'
    missing, other_shape = load_weights(neck, below(weights, prefix, neck.state_dict()))
    if missing or other_shape:
        print_log(
            f'The neck is left out: the checkpoint lacks {some(missing + other_shape)} of it.',
            logger='current',
        )
        return None
    return neck
