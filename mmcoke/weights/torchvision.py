"""Backbones in the layout of torchvision and timm: a state dict of the ResNet alone."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
import torchvision
from torch import Tensor

from mmcoke.files import save_torch
from mmcoke.messages import some

from .convert import convert_file, require, tensors_of

DEPTHS = (18, 34, 50, 101, 152)
"""Of the ResNets that can be converted."""


def export_backbone(src: str | Path, dst: str | Path, *, safetensors: bool = False) -> int:
    """Write the ResNet of a checkpoint as a state dict with torchvision's and timm's names.

    Args:
        src: checkpoint of any mmcoke or mmpretrain algorithm.
        dst: file to write.
        safetensors: write that format instead of torch's.

    Returns:
        Depth of the ResNet.

    Raises:
        ValueError: if ``src`` cannot be read, or its backbone is no ResNet of :data:`DEPTHS`.
        ImportError: if safetensors is asked for and not installed.
    """
    save = safetensors_saver() if safetensors else save_torch
    return resnet_depth(convert_file(src, dst, backbone_state, save))


def safetensors_saver() -> Callable[[dict[str, Tensor], Path], None]:
    """Function that writes tensors to a safetensors file."""
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise ImportError(
            'Writing safetensors needs the package: `pip install safetensors`.'
        ) from error

    def write(state: dict[str, Tensor], path: Path) -> None:
        content = save({name: x.contiguous() for name, x in state.items()}, {'format': 'pt'})
        # Not save_file, which lets nobody but the owner read the result.
        path.write_bytes(content)

    return write


def backbone_state(checkpoint: dict) -> dict[str, Tensor]:
    """The ResNet of a checkpoint, with torchvision's names.

    Raises:
        ValueError: if there is none.
    """
    state = tensors_of(checkpoint)
    prefix = 'backbone.'
    backbone = {
        name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)
    }
    if not backbone:
        raise ValueError(
            f'no key begins with {prefix!r}; it has {some(state)}. For a file of the published '
            'CoKe code use coke_to_mmcoke.py first.'
        )
    resnet_depth(backbone)
    return backbone


@lru_cache
def resnet_shapes(depth: int) -> dict[str, torch.Size]:
    """Names and shapes of torchvision's ResNet without its classifier."""
    with torch.device('meta'):
        model = torchvision.models.get_model(f'resnet{depth}')
    return {name: x.shape for name, x in model.state_dict().items() if not name.startswith('fc.')}


def resnet_depth(backbone: dict[str, Tensor]) -> int:
    """Depth of the ResNet whose weights these are.

    Raises:
        ValueError: if they are not those of a ResNet as in torchvision.
    """
    found = {name: x.shape for name, x in backbone.items()}
    depth = min(DEPTHS, key=lambda depth: len(found.items() ^ resnet_shapes(depth).items()))
    supported = ', '.join(f'ResNet-{depth}' for depth in DEPTHS)
    what = f'Backbones of {supported} are supported. This one, compared with ResNet-{depth},'
    require(backbone, resnet_shapes(depth), what)
    return depth
