"""Random crops of an image file for all its views, from one decoding at the scale they allow."""

import math
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from mmcoke.clustering.settings import check_number
from mmcoke.registry import TRANSFORMS

from .folder import LoadImageFromFile
from .reading import REDUCED, decode_image, jpeg_size, read_image

NUM_TRIES = 10
"""Boxes that are drawn until one lies within the image."""


class View(NamedTuple):
    """How one view is cropped, in the terms of torchvision's RandomResizedCrop.

    Attributes:
        size: of both sides, in pixels.
        scale: least and largest share of the image's area.
        ratio: least and largest width of the box, in heights.
    """

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)


class Box(NamedTuple):
    """Part of an image, in its pixels."""

    left: int
    top: int
    width: int
    height: int


@TRANSFORMS.register_module()
class RandomResizedCrops(LoadImageFromFile):
    """Views of an image file: cropped at random, resized, flipped; in place of a loader.

    The boxes of all views are drawn first, so the file is decoded once, and a large JPEG only at
    the scale at which the smallest box still has the pixels of its view: 1/1, 1/2, 1/4 or 1/8. What
    a file is, or why it cannot be read, is as for :class:`~mmcoke.datasets.LoadImageFromFile`.
    Boxes are distributed as those of torchvision's ``RandomResizedCrop``, and resized as Pillow
    does, with antialiasing; a value differs by 1 at most from Pillow's, at scale 1/1.

    Behind a loader of one's own it crops what that gave, with three channels as B, G, R.

    Args:
        views: for each view the arguments of :class:`View`.
        flip: probability that a view is mirrored.
        ignore_empty, color_type, backend_args: as for ``LoadImageFromFile``. Images other than
            ``'color'`` are decoded at full size.

    Raises:
        ValueError: if there is no view, or one has impossible numbers.
        UnreadableImageError: if a file cannot be read or decoded, and ``ignore_empty`` is not set.
    """

    def __init__(
        self,
        views: Sequence[dict],
        flip: float = 0.5,
        *,
        ignore_empty: bool = False,
        color_type: str = 'color',
        backend_args: dict | None = None,
    ) -> None:
        loading = dict(ignore_empty=ignore_empty, color_type=color_type, backend_args=backend_args)
        super().__init__(**loading)
        if not views:
            raise ValueError('views of RandomResizedCrops must have at least one.')
        check_number('flip of RandomResizedCrops', flip, '[0, 1]')
        self.views = [checked_view(i, view) for i, view in enumerate(views)]
        self.flip = flip
        self.loader = LoadImageFromFile(**loading)
        """What gives the whole image, for features without augmentation."""

    def transform(self, results: dict) -> dict | None:
        """``img`` becomes a list with a tensor per view, (C, size, size), colour in R, G, B; uint8
        if a file is read here."""
        if 'img' in results:
            views = self.crops_of(as_pixels(results['img']))
        else:
            views = self.attempt(self.read_crops, results['img_path'])
        return None if views is None else results | dict(img=views)

    def read_crops(self, path: str) -> list[Tensor]:
        """Views of a file."""
        if self.color_type != 'color':
            return self.crops_of(as_pixels(self.loader.read(path)))
        return read_image(path, get=self.get, decode=self.decode_crops)

    def decode_crops(self, content: bytes) -> list[Tensor]:
        """Views of the content of a file."""
        size = jpeg_size(content)
        if size is None:
            return self.crops_of(decode_image(content))
        boxes = self.draw_boxes(*size)
        return self.cut(decode_image(content, reduction_for(boxes, self.views)), boxes, size)

    def crops_of(self, pixels: np.ndarray) -> list[Tensor]:
        """Views of an image (H, W, C)."""
        size = pixels.shape[1::-1]
        return self.cut(pixels, self.draw_boxes(*size), size)

    def draw_boxes(self, width: int, height: int) -> list[Box]:
        """One for each view."""
        return [draw_box(width, height, view.scale, view.ratio) for view in self.views]

    def cut(self, pixels: np.ndarray, boxes: Sequence[Box], size: tuple[int, int]) -> list[Tensor]:
        """Views of an image.

        Args:
            pixels: (H, W, C).
            boxes: for each view, in an image of ``size``.
            size: width and height that the image has, where it was not reduced.
        """
        return [
            resized(part(pixels, box, size), view.size, mirrored=random.random() < self.flip)
            for box, view in zip(boxes, self.views, strict=True)
        ]

    def __repr__(self) -> str:
        return f'{type(self).__name__}(views={self.views}, flip={self.flip})'


def checked_view(number: int, view: dict) -> View:
    """A view from its config; ValueError if that is impossible."""
    name = f'views[{number}] of RandomResizedCrops'
    if not isinstance(view, dict) or not {'size'} <= set(view) <= set(View._fields):
        raise ValueError(f'{name} must have size, and may have scale and ratio, but is {view!r}.')
    view = View(**view)
    check_number(f'size in {name}', view.size, '[1, inf)', whole=True)
    for field, within in dict(scale='(0, 1]', ratio='(0, inf)').items():
        ends = getattr(view, field)
        if not isinstance(ends, (tuple, list)) or len(ends) != 2:
            raise ValueError(f'{field} in {name} must be two numbers, but is {ends!r}.')
        for end in ends:
            check_number(f'{field} in {name}', end, within)
        if ends[0] > ends[1]:
            raise ValueError(f'{field} in {name} must begin with the smaller, but is {ends!r}.')
    return view


def draw_box(
    width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> Box:
    """A random part of an image, by the rules of torchvision's ``RandomResizedCrop``.

    Its area is uniform in ``scale``, the logarithm of its aspect uniform between those of
    ``ratio``. If none of ten lies within the image, the largest central box of an allowed aspect.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(NUM_TRIES):
        area = width * height * random.uniform(*scale)
        aspect = math.exp(random.uniform(low, high))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return Box(random.randint(0, width - w), random.randint(0, height - h), w, h)
    w = min(width, max(1, round(height * ratio[1])))
    h = min(height, max(1, round(width / ratio[0])))
    return Box((width - w) // 2, (height - h) // 2, w, h)


def reduction_for(boxes: Sequence[Box], views: Sequence[View]) -> int:
    """By what an image may be divided so that no box has fewer pixels than its view.

    A view that is larger than its box forbids any.
    """
    spare = min(
        min(box.width, box.height) / view.size for box, view in zip(boxes, views, strict=True)
    )
    return max(reduction for reduction in REDUCED if reduction <= max(spare, 1))


def part(pixels: np.ndarray, box: Box, size: tuple[int, int]) -> np.ndarray:
    """A box of an image that may be reduced, to its nearest pixels."""
    (height, width), (full_width, full_height) = pixels.shape[:2], size

    def span(first: int, length: int, scale: float) -> slice:
        # Halves always upwards: so a box never loses the pixel that its view needs.
        return slice(int(first * scale + 0.5), int((first + length) * scale + 0.5))

    rows = span(box.top, box.height, height / full_height)
    return pixels[rows, span(box.left, box.width, width / full_width)]


def resized(pixels: np.ndarray, size: int, *, mirrored: bool) -> Tensor:
    """An image (H, W, C) as a tensor (C, size, size), with antialiasing; B, G, R as R, G, B."""
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    # As Pillow, within 1; three times as fast, and twice as fast as OpenCV's INTER_AREA.
    view = interpolate(image, (size, size), mode='bilinear', antialias=True)[0]
    turned = [0] if len(view) == 3 else []
    return view.flip([*turned, *([2] if mirrored else [])]).contiguous()


def as_pixels(image: Any) -> np.ndarray:
    """An image of a record as an array (H, W, C).

    Raises:
        ValueError: if it is none.
    """
    if not isinstance(image, np.ndarray):
        raise ValueError(
            'RandomResizedCrops takes images as LoadImageFromFile gives them, arrays in B, G, R, '
            f'but got a {type(image).__name__}: leave NumpyToPIL ahead of it out.'
        )
    return image[..., None] if image.ndim == 2 else image
