"""What the conversions of checkpoints share: files in and out, names and shapes that must agree."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmcoke.files import read_checkpoint, write_whole
from mmcoke.messages import some


def convert_file(
    src: str | Path,
    dst: str | Path,
    convert: Callable[[dict], dict],
    write: Callable[[dict, Path], None],
) -> dict:
    """Read, convert, write; the error of ``convert`` gets the name of the file."""
    src, dst = Path(src), Path(dst)
    if dst.exists() and dst.samefile(src):
        raise ValueError(f'{src} would be overwritten by its conversion. Give another name.')
    checkpoint = read_checkpoint(src)
    try:
        converted = convert(checkpoint)
    except ValueError as error:
        raise ValueError(f'{src}: {error}') from error
    write_whole(dst, lambda path: write(converted, path))
    return converted


def tensors_of(checkpoint: Any) -> dict[str, Tensor]:
    """The ``state_dict`` of a checkpoint; a prefix ``module.`` of all names stays."""
    state = checkpoint.get('state_dict') if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not all(isinstance(x, Tensor) for x in state.values()):
        found = some(checkpoint) if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise ValueError(
            f"'state_dict' with tensors is missing at the top level; there is {found}."
        )
    return state


def split(state: dict[str, Tensor], pattern: re.Pattern) -> tuple[dict, dict]:
    """The entries whose names match, and the others."""
    match = {name: x for name, x in state.items() if pattern.fullmatch(name)}
    return match, {name: x for name, x in state.items() if name not in match}


def require(actual: dict[str, Tensor], expected: dict[str, torch.Size], what: str) -> None:
    """Refuse names and shapes other than the expected ones; ``what`` begins the message."""
    missing = [name for name in expected if name not in actual]
    left_over = [name for name in actual if name not in expected]
    problems = [f'lacks {some(missing)}'] if missing else []
    problems += [f'has besides {some(left_over)}'] if left_over else []
    if not problems:
        problems = [
            f'has {name} of shape {tuple(actual[name].shape)} instead of {tuple(shape)}'
            for name, shape in expected.items()
            if actual[name].shape != shape
        ]
    if problems:
        raise ValueError(f'{what} {" and ".join(problems[:3])}.')
