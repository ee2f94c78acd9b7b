"""The weights of a backbone in a checkpoint of any layout."""

import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from mmcoke.files import read_checkpoint
from mmcoke.messages import some

MIN_MATCHED = 0.9
"""Smallest share of a backbone's keys that a checkpoint must have."""


def load_backbone(
    backbone: nn.Module,
    weights: dict[str, Tensor],
    checkpoint: str | Path,
    *,
    min_matched: float = MIN_MATCHED,
) -> tuple[str, str]:
    """Load a backbone's share of the weights of a checkpoint; logs how many keys matched.

    Args:
        backbone: changed in place.
        weights: of the checkpoint, see :func:`weights_of`.
        checkpoint: its name, for messages.
        min_matched: smallest share of the backbone's keys that the checkpoint must have.

    Returns:
        What stands before the names in the checkpoint, and how many keys matched, in words.

    Raises:
        ValueError: if fewer keys match, or a weight is of another shape.
    """
    prefix = find_prefix(weights, backbone.state_dict())
    missing, other_shape = load_weights(backbone, without(prefix, weights))
    needed = counted(backbone.state_dict())
    fit = count(needed, missing, other_shape)
    said = f'{fit} of {len(needed)} backbone keys matched'
    problem = in_words(counted(missing), other_shape)
    if fit < min_matched * len(needed) or other_shape:
        raise ValueError(
            f'Only {said} in {checkpoint} ({problem}). The others would be random. '
            'Give the backbone that this checkpoint was trained with; that of the config is a '
            f'{describe(backbone)}, and the checkpoint has {some(weights)}.'
        )
    log_match(f'{said} ({checkpoint}, names begin with {prefix!r})', problem)
    return prefix, said


def load_model(model: nn.Module, weights: dict[str, Tensor], checkpoint: str | Path) -> None:
    """Load a whole model, whose heads may be others; logs how many keys matched.

    Args:
        model: changed in place; its ``backbone`` must fit, or all of it if it has none.
        weights, checkpoint: see :func:`load_backbone`; the names are the model's own.

    Raises:
        ValueError: if less than :data:`MIN_MATCHED` of the backbone's keys match, or one of its
            weights is of another shape.
    """
    missing, other_shape = load_weights(model, without('module.', weights) or weights)
    part = 'backbone.' if hasattr(model, 'backbone') else ''
    needed = [name for name in counted(model.state_dict()) if name.startswith(part)]
    fit = count(needed, missing, other_shape)
    said = f'{fit} of {len(needed)} {part.rstrip(".") or "model"} keys matched in {checkpoint}'
    problem = in_words(counted(missing), other_shape)
    if fit < MIN_MATCHED * len(needed) or set(needed) & set(other_shape):
        raise ValueError(
            f'Only {said} ({problem}). The others would be random. Give a checkpoint of this '
            f'{type(model).__name__}, or, for the backbone of a checkpoint with other names (this '
            f"has {some(weights)}), backbone.init_cfg=dict(type='Pretrained', checkpoint=...)."
        )
    log_match(said, problem)


def counted(names: Iterable[str]) -> list[str]:
    """Without counters, for which torch makes up: they say nothing about a match."""
    return [name for name in names if not name.endswith('num_batches_tracked')]


def count(needed: list[str], missing: Iterable[str], other_shape: Iterable[str]) -> int:
    """How many of the needed weights are neither missing nor of another shape."""
    return len(set(needed) - {*missing, *other_shape})


def in_words(missing: list[str], other_shape: list[str]) -> str:
    """What does not match."""
    problems = {'missing': missing, 'of another shape': other_shape}
    return '; '.join(f'{what}: {some(names)}' for what, names in problems.items() if names)


def log_match(said: str, problem: str) -> None:
    """Tell how many keys matched, as a warning if not all did."""
    level = logging.WARNING if problem else logging.INFO
    print_log(f'{said}{"; " + problem if problem else ""}.', logger='current', level=level)


def without(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights whose names begin with a prefix, without it."""
    return {n.removeprefix(prefix): x for n, x in weights.items() if n.startswith(prefix)}


def describe(backbone: nn.Module) -> str:
    """Type of a backbone and, where it has one, its depth."""
    kind, depth = type(backbone).__name__, getattr(backbone, 'depth', None)
    return f'{kind} {depth}' if depth else kind


def read_weights(checkpoint: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint, by name.

    Args:
        checkpoint: a file, or an address such as ``torchvision://resnet50`` or ``mmcoke://NAME``.

    Raises:
        OSError: if it cannot be opened.
        ValueError: if it is damaged, unsafe, or holds no weights where they are looked for.
    """
    remote = '://' in str(checkpoint)
    read = CheckpointLoader.load_checkpoint if remote else read_checkpoint
    return weights_of(read(checkpoint, map_location='cpu'), checkpoint)


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
        other_shape = [n for n, x in weights.items() if x.shape != shapes.get(n, x.shape)]
        if not other_shape:
            raise
        return [name for name in shapes if name not in weights], other_shape
