"""Frozen networks of any config and checkpoint, and what their stages say about images."""

import inspect
import logging
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from mmpretrain.models import BaseSelfSupervisor
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d

from mmcoke.engine.checkpoint import read_checkpoint
from mmcoke.models.algorithms.base import fill_in, output_width
from mmcoke.models.checkpoints import some
from mmcoke.registry import MODELS

NUM_STAGES = 5
"""Of a ResNet: the stem and four stages of blocks."""

POOLED_SIZE = (12, 6, 4, 3, 2)
"""Side of the pooled map of each stage in the VOC07 SVM protocol."""

POOLING_224 = ((112, 10, 10, 4), (56, 16, 8, 0), (28, 13, 5, 0), (14, 8, 3, 0), (7, 6, 1, 0))
"""Side of each map of a 224x224 image, and kernel, stride and padding of the published pooling."""


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
            ``mmpretrain::resnet/resnet50_8xb32_in1k.py``, or a loaded config.
        checkpoint: of those, of torchvision, or of other code with torchvision's names: a state
            dict, alone or below ``state_dict`` or ``model``, whatever stands before the names.
        min_matched: smallest share of the backbone's keys that the checkpoint must have.

    Raises:
        OSError: if a file cannot be opened.
        ValueError: if the config describes no backbone, the checkpoint cannot be read, fewer keys
            match, or a weight is of another shape.
    """
    cfg = read_config(config)
    weights = weights_of(read_checkpoint(checkpoint), checkpoint)
    with DefaultScope.overwrite_default_scope('mmcoke'):
        backbone = MODELS.build(cfg.model.backbone)
        preprocessor_cfg = preprocessor_config(cfg)
        preprocessor = MODELS.build(preprocessor_cfg)
    wanted = backbone.state_dict()
    prefix = find_prefix(weights, wanted)
    missing, other_shape = load_weights(backbone, below(weights, prefix, wanted))
    matched = len(wanted) - len(missing) - len(other_shape)
    said = f'{matched} of {len(wanted)} backbone keys matched'
    problem = '; '.join(
        f'{what}: {some(names)}'
        for what, names in (('missing', missing), ('of another shape', other_shape))
        if names
    )
    if matched < min_matched * len(wanted) or other_shape:
        raise ValueError(
            f'Only {said} in {checkpoint} ({problem}). It would be measured with random weights. '
            f'Give the config that this checkpoint was trained with; {cfg.filename} describes a '
            f'{describe(cfg.model.backbone)}, and the checkpoint has {some(weights)}.'
        )
    print_log(
        f'{said} ({checkpoint}, names begin with {prefix!r}){"; " + problem if problem else ""}.',
        logger='current',
        level=logging.WARNING if problem else logging.INFO,
    )
    return FrozenNetwork(
        preprocessor,
        backbone,
        load_neck(cfg, backbone, weights, prefix),
        takes_bgr=takes_bgr(preprocessor_cfg),
        origin=dict(config=str(cfg.filename), checkpoint=str(checkpoint), keys=said),
    )


def stage_outputs(backbone: nn.Module, images: Tensor) -> list[Tensor]:
    """The five feature maps of a ResNet, whatever its ``out_indices``.

    Args:
        backbone: of mmpretrain, of mmcoke, or with torchvision's names.
        images: normalized (n, 3, H, W).

    Returns:
        The stem's map after ReLU, before the max-pool, and those of stages 1 ... 4, (n, C, h, w).

    Raises:
        ValueError: if the backbone has no such stages.
    """
    if not has_stages(backbone):
        raise ValueError(
            f'{type(backbone).__name__} has no ResNet stages (layer1 ... layer4). Of such a '
            'network only the pooled output can be taken.'
        )
    maps = []
    after_stem = getattr(backbone, 'maxpool', backbone.layer1)
    with ExitStack() as hooks:
        hooks.enter_context(
            after_stem.register_forward_pre_hook(lambda _, inputs: maps.append(inputs[0]))
        )
        for number in range(1, NUM_STAGES):
            layer = getattr(backbone, f'layer{number}')
            hooks.enter_context(
                layer.register_forward_hook(lambda _, inputs, output: maps.append(output))
            )
        backbone(images)
    return maps


def has_stages(backbone: nn.Module) -> bool:
    """Whether a network has the stages of a ResNet."""
    return all(hasattr(backbone, f'layer{number}') for number in range(1, NUM_STAGES))


def pool_stage(x: Tensor, stage: int) -> Tensor:
    """Average a map of a stage over windows, as the VOC07 SVM protocol does.

    The published windows (Goyal et al., ICCV 2019) are for images of 224x224; they overlap, and
    those of the stem reach over the border, where zeros count. Of other images the map is
    divided into equal parts.

    Args:
        x: (n, C, h, w).
        stage: 0 (stem) ... 4.

    Returns:
        (n, C, s, s) with s = 12, 6, 4, 3, 2.
    """
    side, kernel, stride, padding = POOLING_224[stage]
    if x.shape[2:] == (side, side):
        return avg_pool2d(x, kernel, stride, padding)
    return adaptive_avg_pool2d(x, POOLED_SIZE[stage])


# ---- config


def read_config(config: str | Path | Config) -> Config:
    """A loaded config that describes a backbone; see :func:`load_frozen`."""
    if not isinstance(config, Config):
        config = get_config(config) if '::' in str(config) else Config.fromfile(config)
    if not config.get('model', {}).get('backbone'):
        raise ValueError(
            f'{config.filename} describes no model with a backbone. Give the config that the '
            'checkpoint was trained with.'
        )
    return config


def preprocessor_config(cfg: Config) -> dict:
    """Config of the data preprocessor, with the type that the model gives it by default."""
    with MODELS.switch_scope_and_registry(None) as registry:  # as MODELS.build looks it up
        model = cfg.model.get('type')
        model = model if inspect.isclass(model) else registry.get(model)
    own = inspect.isclass(model) and issubclass(model, BaseSelfSupervisor)
    default = 'SelfSupDataPreprocessor' if own else 'ClsDataPreprocessor'
    found = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    return dict(type=default) | dict(found)


def takes_bgr(preprocessor: dict) -> bool:
    """Whether a data preprocessor expects channels as OpenCV loads them.

    It does if it turns them round, or if it does not and its mean is ImageNet's in the order
    B, G, R, which increases.
    """
    if preprocessor.get('to_rgb') or preprocessor.get('bgr_to_rgb'):
        return True
    mean = preprocessor.get('mean') or [0]
    increases = mean[0] < mean[-1]
    return increases and not preprocessor.get('rgb_to_bgr')


def describe(backbone: dict) -> str:
    """Type and depth of a backbone's config."""
    kind = backbone['type']
    kind = kind.__name__ if inspect.isclass(kind) else kind
    depth = backbone.get('depth') or backbone.get('arch')
    return f'{kind} {depth}' if depth else kind


# ---- weights


def weights_of(checkpoint: Any, path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint, by name.

    Raises:
        ValueError: if it holds none where they are looked for.
    """
    state = checkpoint
    for key in ('state_dict', 'model'):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    items = state.items() if isinstance(state, dict) else ()
    weights = {str(name): x for name, x in items if isinstance(x, Tensor)}
    if not weights:
        found = some(checkpoint) if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise ValueError(
            f"{path} holds no weights, alone or below 'state_dict' or 'model'; there is {found}."
        )
    return weights


def find_prefix(weights: Iterable[str], wanted: Iterable[str]) -> str:
    """What stands before the names of a backbone in a checkpoint.

    That with most of the names wins; of equals (a network and its momentum copy) ``backbone.``,
    then the first.
    """
    wanted, count = set(wanted), Counter()
    for name in weights:
        parts = name.split('.')
        for first in range(len(parts)):
            if '.'.join(parts[first:]) in wanted:
                count[''.join(f'{part}.' for part in parts[:first])] += 1
    return max(count, key=lambda prefix: (count[prefix], prefix == 'backbone.'), default='')


def below(weights: dict[str, Tensor], prefix: str, wanted: Iterable[str]) -> dict[str, Tensor]:
    """The wanted weights, without the prefix."""
    return {name: weights[prefix + name] for name in wanted if prefix + name in weights}


def load_weights(module: nn.Module, weights: dict[str, Tensor]) -> tuple[list[str], list[str]]:
    """Load weights into a module.

    Returns:
        Names that are missing, and names whose shapes differ.
    """
    try:
        return module.load_state_dict(weights, strict=False).missing_keys, []
    except RuntimeError:
        # Asked afterwards: some modules adapt a shape while they load, as ViT its positions.
        shapes = {name: x.shape for name, x in module.state_dict().items()}
        other_shape = [name for name, x in weights.items() if x.shape != shapes[name]]
        if not other_shape:
            raise
        return [name for name in shapes if name not in weights], other_shape


def load_neck(
    cfg: Config, backbone: nn.Module, weights: dict[str, Tensor], prefix: str
) -> nn.Module | None:
    """The config's neck with the checkpoint's weights; None if the checkpoint lacks any of them."""
    if not cfg.model.get('neck'):
        return None
    with DefaultScope.overwrite_default_scope('mmcoke'):
        neck = MODELS.build(fill_in(cfg.model.neck, in_channels=lambda: output_width(backbone)))
    prefix = prefix.removesuffix('backbone.') + 'neck.'
    missing, other_shape = load_weights(neck, below(weights, prefix, neck.state_dict()))
    if missing or other_shape:
        print_log(
            f'The neck is left out: the checkpoint lacks {some(missing + other_shape)} of it.',
            logger='current',
        )
        return None
    return neck
