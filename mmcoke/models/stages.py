"""The five feature maps of a ResNet, and their pooling in the benchmarks."""

from contextlib import ExitStack
from functools import partial

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d

from .algorithms.base import see_blank

NUM_STAGES = 5
"""Of a ResNet: the stem and four stages of blocks."""

POOLED_SIZE = (12, 6, 4, 3, 2)
"""Side of the pooled map of each stage in the VOC07 SVM protocol."""

POOLING_224 = ((112, 10, 10, 4), (56, 16, 8, 0), (28, 13, 5, 0), (14, 8, 3, 0), (7, 6, 1, 0))
"""Side of each map of a 224x224 image, and kernel, stride and padding of the published pooling."""


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
    check_stages(backbone)
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


def check_stages(backbone: nn.Module) -> None:
    """ValueError if the backbone has not the stages of a ResNet."""
    if not has_stages(backbone):
        raise ValueError(
            f'{type(backbone).__name__} has no ResNet stages (layer1 ... layer4). Of such a '
            'network only the pooled output can be taken.'
        )


def has_stages(backbone: nn.Module) -> bool:
    """Whether a network has the stages of a ResNet, and no more."""
    found = [hasattr(backbone, f'layer{number}') for number in range(NUM_STAGES + 1)]
    return found == [False, *[True] * (NUM_STAGES - 1), False]


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


def stage_widths(backbone: nn.Module) -> list[int]:
    """Channels of the five feature maps; of ResNet-50: 64, 256, 512, 1024, 2048."""
    check_stages(backbone)
    maps = see_blank(backbone, partial(stage_outputs, backbone))
    return [x.shape[1] for x in maps]
