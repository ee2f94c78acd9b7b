"""Where pixels come from: crop, resize, flip, affine maps."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mmcoke.clustering.settings import check_number

from .operation import Operation, between, pair_of, size_of, spread_of

TRIES = 10
"""Boxes that torchvision draws until one lies within the image."""


class RandomResizedCrop(Operation):
    """A random box of the image, resized: torchvision's ``RandomResizedCrop``.

    Boxes are drawn as there: area and logarithm of the aspect ratio uniform, sides rounded, the
    first of ten that fits, at a uniform place; a central box if none does. Resizing is PIL's
    antialiased bilinear, without rounding in between: equal boxes give images that differ from
    torchvision's on PIL by at most 1.0 and on average 0.3 of 255.

    Args:
        size: (height, width) of the result, or one number for both.
        scale: least and greatest area, as a share of the image's.
        ratio: least and greatest width / height.
        p: probability; the others are resized whole.
    """

    num_parameters = 2 * TRIES + 2

    def __init__(
        self,
        size: int | Sequence[int],
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        p: float = 1.0,
    ) -> None:
        super().__init__(p)
        self.size = size_of('size of RandomResizedCrop', size)
        self.scale = pair_of('scale of RandomResizedCrop', scale, '(0, 1]')
        self.ratio = pair_of('ratio of RandomResizedCrop', ratio, '(0, inf)')

    def forward(self, images: Tensor, u: Tensor) -> Tensor:
        height, width = images.shape[2:]
        box = self.boxes(u[:, 1:], height, width)
        top, left, h, w = box.split(1, dim=1)
        if self.p < 1:
            box = zip(box.split(1, dim=1), (0, 0, height, width), strict=True)
            top, left, h, w = (torch.where(u[:, :1] < self.p, *sides) for sides in box)
        rows = resize_weights(top, h, self.size[0], height)
        return weighted(images, rows, resize_weights(left, w, self.size[1], width))

    def boxes(self, u: Tensor, height: int, width: int) -> Tensor:
        """Top, left, height and width (n, 4), whole numbers as float32."""
        area = between(u[:, :TRIES], self.scale) * (height * width)
        root = between(u[:, TRIES : 2 * TRIES], tuple(map(math.log, self.ratio))).div_(2).exp_()
        h, w = (area.sqrt() / root).round_(), (area.sqrt() * root).round_()
        fits = (h > 0) & (h <= height) & (w > 0) & (w <= width)
        h, w = (
            functional.pad(side, (0, 1), value=last)
            for side, last in zip((h, w), self.central_box(height, width), strict=True)
        )
        # The central box is the last one and always fits.
        order = torch.arange(TRIES + 1, 0, -1, device=u.device)
        chosen = (functional.pad(fits, (0, 1), value=True) * order).argmax(1, keepdim=True)
        h, w = h.gather(1, chosen), w.gather(1, chosen)
        space = torch.cat([height - h, width - w], dim=1)
        place = (u[:, 2 * TRIES :] * (space + 1)).floor_()
        place = torch.where(chosen < TRIES, place, (space / 2).floor_())
        return torch.cat([place, h, w], dim=1)

    def central_box(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the largest box whose ratio is allowed."""
        least, greatest = self.ratio
        if width / height < least:
            return round(width / least), width
        return height, round(height * greatest) if width / height > greatest else width


def resize_weights(start: Tensor, length: Tensor, size: int, total: int) -> Tensor:
    """How PIL's antialiased bilinear filter resizes a part of a line, as matrices.

    Args:
        start, length: of the part, float32 (n, 1).
        size: pixels of the result.
        total: pixels of the line.

    Returns:
        float32 (n, size, total); a row holds the weights that make one pixel, and sums to 1.
    """
    position = torch.arange(total, device=start.device) - start
    inside = ((position >= 0) & (position < length)).to(start.dtype)[:, None]
    scale = length / size
    reach = scale.clamp(min=1)  # of the triangle; above 1 where the result is smaller
    middle = (torch.arange(size, device=start.device) + 0.5) * (scale / reach)
    weights = ((position + 0.5) / reach)[:, None] - middle[:, :, None]
    weights = torch.addcmul(inside, weights.abs_().clamp_(max=1), inside, value=-1)
    return weights.div_(weights.sum(2, keepdim=True))


def weighted(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Sums of pixels, by weights of each image: ``rows @ image @ columns^T``.

    Two batched products: (n, C, h, w) with (n, S, h) and (n, T, w) to (n, C, S, T). Weights that
    sum to 1 keep the range; rounding is cut off. Where products may use TF32, it rounds values to
    multiples of 1/2048 or less, also those that the weights leave alone.
    """
    n, channels, height, width = images.shape
    narrow = torch.bmm(images.reshape(n, channels * height, width), columns.transpose(1, 2))
    rows = rows[:, None].expand(-1, channels, -1, -1).flatten(0, 1)
    result = torch.bmm(rows, narrow.view(n * channels, height, -1))
    return result.clamp_(0, 1).view(n, channels, *result.shape[1:])


class Resize(Operation):
    """PIL's antialiased bilinear resizing, without rounding in between; nothing is random.

    Args:
        size: (height, width), or one number for the shorter side, as in torchvision's ``Resize``.
    """

    def __init__(self, size: int | Sequence[int]) -> None:
        super().__init__(p=1)
        self.size = size_of('size of Resize', size)
        self.keeps_ratio = not isinstance(size, (tuple, list))

    def change(self, images: Tensor, u: Tensor) -> Tensor:
        height, width = images.shape[2:]
        size, shorter = self.size, min(height, width)
        if self.keeps_ratio:
            size = size[0] * height // shorter, size[0] * width // shorter
        images = functional.interpolate(images, size, mode='bilinear', antialias=True)
        return images.clamp_(0, 1)


class RandomHorizontalFlip(Operation):
    """Left and right swapped: torchvision's ``RandomHorizontalFlip``, exactly."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__(p)

    def change(self, images: Tensor, u: Tensor) -> Tensor:
        return images.flip(3)


class RandomAffine(Operation):
    """Rotation, shift, scaling and shear about the center: torchvision's ``RandomAffine``.

    Interpolation is bilinear, with black around the image. Shifts are not rounded to whole pixels
    (kornia's neither). With equal parameters, images with a black edge differ from torchvision's on
    PIL by at most 1.0 and on average 0.5 of 255. Another edge becomes black at once there, within a
    pixel here: up to 127 of 255 in such pixels.

    Args:
        degrees: (least, greatest) angle, clockwise; one number a means (-a, a).
        translate: greatest shift to the right and down, as shares of width and height.
        scale: least and greatest factor of the size.
        shear: degrees; a means (-a, a), (a, b) are of the x axis, (a, b, c, d) of both axes.
        p: probability.
    """

    num_parameters = 6

    def __init__(
        self,
        degrees: float | Sequence[float],
        translate: Sequence[float] | None = None,
        scale: Sequence[float] | None = None,
        shear: float | Sequence[float] | None = None,
        p: float = 1.0,
    ) -> None:
        super().__init__(p)
        self.degrees = spread_of('degrees of RandomAffine', degrees, '[-360, 360]')
        self.translate = shares_of('translate of RandomAffine', translate or (0.0, 0.0))
        self.scale = pair_of('scale of RandomAffine', scale or (1.0, 1.0), '(0, inf)')
        self.shear = shears_of('shear of RandomAffine', 0 if shear is None else shear)

    def change(self, images: Tensor, u: Tensor) -> Tensor:
        height, width = images.shape[2:]
        x, y = (
            (torch.arange(length, device=u.device) * 2 + 1 - length) / length
            for length in (width, height)
        )
        maps = self.maps(u, height, width)[:, None, None]  # (n, 1, 1, 2, 3)
        grid = maps[..., 0] * x[:, None] + (maps[..., 1] * y[:, None, None] + maps[..., 2])
        return functional.grid_sample(images, grid, align_corners=False)

    def maps(self, u: Tensor, height: int, width: int) -> Tensor:
        """Where pixels of the result lie in the image, as maps (n, 2, 3) of (x, y) in [-1, 1]."""
        angle, x, y, scale, shear_x, shear_y = u.unbind(1)
        angle = between(angle, self.degrees).deg2rad_()
        x, y = ((2 * share - 1) * most for share, most in zip((x, y), self.translate, strict=True))
        tan_x = between(shear_x, self.shear[0]).deg2rad_().tan_()
        tan_y = between(shear_y, self.shear[1]).deg2rad_().tan_()
        scale = between(scale, self.scale)
        cos, sin = angle.cos() / scale, angle.sin() / scale
        both = 1 + tan_x * tan_y
        # The inverse of rotation · shear · scale, in pixels; then in units of half the image.
        xx, xy = both * cos - tan_x * sin, (both * sin + tan_x * cos) * (height / width)
        yx, yy = (tan_y * cos - sin) * (width / height), tan_y * sin + cos
        shift_x, shift_y = -2 * (xx * x + xy * y), -2 * (yx * x + yy * y)
        return torch.stack([xx, xy, shift_x, yx, yy, shift_y], dim=1).view(-1, 2, 3)


def shares_of(name: str, value: Any) -> tuple[float, float]:
    """Two shares, of the width and of the height."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ValueError(f'{name} must be two shares (of width, of height), but is {value!r}.')
    for share in value:
        check_number(name, share, '[0, 1]')
    return tuple(map(float, value))


def shears_of(name: str, value: Any) -> tuple[tuple[float, float], tuple[float, float]]:
    """Least and greatest angle along the x axis, and along the y axis."""
    along_y = (0, 0)
    if isinstance(value, (tuple, list)) and len(value) == 4:
        value, along_y = value[:2], value[2:]
    return spread_of(name, value, '(-90, 90)'), pair_of(name, along_y, '(-90, 90)')
