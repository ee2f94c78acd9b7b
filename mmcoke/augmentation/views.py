"""Views of images: operations in order, each with its own random numbers."""

import difflib
import inspect
from collections.abc import Iterable

from torch import Tensor, nn

from .blur import GaussianBlur
from .colour import (
    ColorJitter,
    RandomBrightness,
    RandomContrast,
    RandomGaussianNoise,
    RandomGrayscale,
    RandomSolarize,
)
from .geometry import RandomAffine, RandomHorizontalFlip, RandomResizedCrop, Resize
from .operation import Operation
from .random import uniforms

OPERATIONS = {
    operation.__name__: operation
    for operation in (
        RandomResizedCrop,
        RandomHorizontalFlip,
        RandomAffine,
        Resize,
        ColorJitter,
        RandomGrayscale,
        RandomSolarize,
        RandomBrightness,
        RandomContrast,
        RandomGaussianNoise,
        GaussianBlur,
    )
}


class View(nn.Module):
    """One view of each image of a batch.

    Args:
        operations: in order. Each has ``num_draws`` and is called with images and ``num_draws``
            numbers for each, as an :class:`Operation` is.
    """

    def __init__(self, operations: Iterable[nn.Module]) -> None:
        super().__init__()
        self.operations = nn.ModuleList(operations)

    @property
    def num_draws(self) -> int:
        """Random numbers that an image needs."""
        return sum(operation.num_draws for operation in self.operations)

    def forward(self, images: Tensor, key_n: Tensor | None) -> Tensor:
        """Views of images (n, C, h, w) in [0, 1], with a key for each: see ``random.view_keys``.

        None will do for keys where no number is drawn.
        """
        draws = [operation.num_draws for operation in self.operations]
        u = uniforms(key_n, sum(draws)) if any(draws) else images.new_empty(len(images), 0)
        for operation, u_of_it in zip(self.operations, u.split(draws, dim=1), strict=True):
            images = operation(images, u_of_it)
        return images


def build_operation(cfg: dict) -> Operation:
    """The operation that a config names: ``dict(type='GaussianBlur', sigma=(0.1, 2.0))``.

    Raises:
        ValueError: in one line, if there is no such operation, or it does not take the arguments.
    """
    arguments = dict(cfg)
    name = arguments.pop('type', None)
    if name not in OPERATIONS:
        raise ValueError(f'There is no augmentation {name!r}{close_to(name, OPERATIONS)}.')
    taken = inspect.signature(OPERATIONS[name]).parameters
    for argument in arguments:
        if argument not in taken:
            raise ValueError(f'{name} takes no {argument!r}{close_to(argument, taken)}.')
    for argument, parameter in taken.items():
        if parameter.default is parameter.empty and argument not in arguments:
            raise ValueError(f'{name} needs {argument!r}.')
    return OPERATIONS[name](**arguments)


def close_to(name: str, names: Iterable[str]) -> str:
    """Names like this one, or all, in parentheses."""
    names = list(names)
    return f' ({", ".join(difflib.get_close_matches(str(name), names) or names)})'
