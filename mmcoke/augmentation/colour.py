"""Values of pixels: brightness, contrast, saturation, hue, gray, inversion, noise."""

from collections.abc import Sequence
from itertools import permutations

import torch
from torch import Tensor

from mmcoke.clustering.settings import check_number

from .operation import Operation, between, pair_of, per_image, spread_of
from .random import pixel_normals

LUMA = 0.299, 0.587, 0.114
"""Share of red, green and blue in the brightness of a color (ITU-R 601), as in PIL."""


def gray(images: Tensor) -> Tensor:
    """Brightness (n, 1, h, w) of images of one channel or of three; a new tensor."""
    if images.shape[1] == 1:
        return images.clone()
    red, green, blue = images.split(1, dim=1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def check_channels(name: str, images: Tensor) -> None:
    """ValueError unless images are gray or RGB."""
    if images.shape[1] not in (1, 3):
        raise ValueError(f'{name} is for images of 1 or 3 channels, not {images.shape[1]}.')


class ColorJitter(Operation):
    """Brightness, contrast, saturation and hue, in an order of its own for each image.

    torchvision's ``ColorJitter``: factors are uniform, all orders equally likely. The first three
    blend an image with black, with its mean brightness, with the brightness of each pixel, so they
    are one formula. An order puts up to three of them before the hue and up to three after it: six
    places in which each image has its own blend or none, and one turn of the hue, for all orders.

    With equal factors and order images of 32 px differ from torchvision's on PIL by up to 28 and on
    average 1.6 of 255, without hue by up to 4 and 1.4: PIL cuts off to whole numbers in each blend,
    which darkens by half of one, and has the hue in 256 steps.

    Args:
        brightness, contrast, saturation: least and greatest factor; one number a means
            (max(0, 1 - a), 1 + a).
        hue: least and greatest turn, in turns; one number a means (-a, a).
        p: probability.
    """

    num_parameters = 5

    def __init__(
        self,
        brightness: float | Sequence[float] = 0,
        contrast: float | Sequence[float] = 0,
        saturation: float | Sequence[float] = 0,
        hue: float | Sequence[float] = 0,
        p: float = 1.0,
    ) -> None:
        super().__init__(p)
        blends = dict(brightness=brightness, contrast=contrast, saturation=saturation)
        self.factors = [
            spread_of(f'{name} of ColorJitter', value, '[0, inf)', center=1)
            for name, value in blends.items()
        ]
        self.hue = spread_of('hue of ColorJitter', hue, '[-0.5, 0.5]')
        kinds = [kind for kind, ends in enumerate(self.factors) if ends != (1, 1)]
        self.register_buffer('places', places(kinds, self.hue != (0, 0)), persistent=False)

    def change(self, images: Tensor, u: Tensor) -> Tensor:
        check_channels('ColorJitter', images)
        coefficients = self.coefficients(u)
        turns = between(u[:, 3], self.hue)
        images = images.clone()
        for place, (factor, of_mean, of_gray) in enumerate(coefficients):
            if place == self.num_before_hue:
                turn_hue_(images, turns)
            blend_(images, factor, of_mean, of_gray)
        if self.num_before_hue == len(coefficients):
            turn_hue_(images, turns)
        return images

    @property
    def num_before_hue(self) -> int:
        """Blends before the hue; -1 if the hue stays."""
        return self.places.shape[1] // 2 if self.hue != (0, 0) else -1

    def coefficients(self, u: Tensor) -> Tensor:
        """For each place the factors of image, mean brightness and brightness: (S, 3, n, 1, 1, 1).

        A place where an image has no blend has 1, 0, 0.
        """
        order = (u[:, 4] * len(self.places)).long()
        factors = torch.stack([between(u[:, i], ends) for i, ends in enumerate(self.factors)], 1)
        more = self.places[order] * (factors - 1)[:, None]  # (n, S, 3)
        parts = torch.stack([1 + more.sum(2), -more[..., 1], -more[..., 2]], 2)
        return parts.permute(1, 2, 0)[..., None, None, None]


def places(kinds: list[int], with_hue: bool) -> Tensor:
    """Which blend stands where in each order: 0 or 1, float32 (orders, S, 3).

    S places: one per blend, or twice as many if a turn of the hue stands in their middle.
    """
    hue = [3] if with_hue else []
    orders = list(permutations(kinds + hue))
    table = torch.zeros(len(orders), len(kinds) * (1 + with_hue), 3)
    for rows, order in zip(table, orders, strict=True):
        place = 0
        for kind in order:
            if kind == 3:
                place = len(kinds)
            else:
                rows[place, kind] = 1
                place += 1
    return table


def blend_(images: Tensor, factor: Tensor, of_mean: Tensor, of_gray: Tensor) -> None:
    """``factor`` · image + ``of_mean`` · mean brightness + ``of_gray`` · brightness, cut off.

    In place; the three factors are (n, 1, 1, 1).
    """
    brightness = gray(images)
    mean = brightness.mean((2, 3), keepdim=True)
    brightness.mul_(of_gray).add_(mean.mul_(of_mean))
    torch.addcmul(brightness, images, factor, out=images).clamp_(0, 1)


def turn_hue_(images: Tensor, turns: Tensor) -> None:
    """Turn the hue of RGB images by ``turns`` (n,), in place; gray images have none.

    By HSV, with value V, least channel m and chroma C = V - m: the hue is 1 + (g + b - r - m) / C
    sixths of a turn from red, towards green or blue, whichever is greater. A channel is
    V - C · clamp(2 - 6 d, 0, 1) then, where d is how many turns the new hue is from its opposite.
    """
    if images.shape[1] == 1:
        return
    red, green, blue = images.unbind(1)
    value, least = images.amax(1), images.amin(1)
    chroma = value - least
    hue = (green + blue).sub_(red).sub_(least)
    hue.div_(least.copy_(chroma).clamp_(min=1e-12)).add_(1).copysign_(green - blue)
    hue.mul_(1 / 6).add_(turns[:, None, None])
    opposite = 0.5 + torch.arange(3, device=images.device) / 3  # of red, green, blue
    distance = hue[:, None] - opposite[:, None, None]
    torch.round(distance, out=images)
    distance.sub_(images).abs_().clamp_(1 / 6, 1 / 3)
    value.sub_(chroma, alpha=2)  # V - C (2 - 6 d) = V - 2 C + 6 C d
    torch.addcmul(value[:, None], chroma[:, None], distance, value=6, out=images).clamp_(0, 1)


class RandomGrayscale(Operation):
    """The brightness in all channels: torchvision's ``RandomGrayscale``, to 0.5 of 255.

    Args:
        p: probability.
    """

    def __init__(self, p: float = 0.1) -> None:
        super().__init__(p)

    def change(self, images: Tensor, u: Tensor) -> Tensor:
        check_channels('RandomGrayscale', images)
        return gray(images).repeat(1, images.shape[1], 1, 1)


class RandomSolarize(Operation):
    """Bright values inverted: torchvision's ``RandomSolarize``, exactly.

    Args:
        threshold: values from it on become 1 - value; 128 of PIL's 255 is 0.502.
        p: probability.
    """

    def __init__(self, threshold: float = 128 / 255, p: float = 0.5) -> None:
        super().__init__(p)
        hint = "PIL's 0 ... 255 are 0 ... 1 here."
        check_number('threshold of RandomSolarize', threshold, '[0, 1]', hint=hint)
        self.threshold = threshold

    def change(self, images: Tensor, u: Tensor) -> Tensor:
        inverse = 1 - images
        bright = torch.ge(images, self.threshold, out=torch.empty_like(images))
        return torch.lerp(images, inverse, bright, out=inverse)


class RandomBrightness(Operation):
    """A number added to all values: kornia's ``RandomBrightness``, exactly.

    Args:
        brightness: least and greatest; 1 adds nothing.
        p: probability.
    """

    num_parameters = 1

    def __init__(self, brightness: Sequence[float] = (1.0, 1.0), p: float = 1.0) -> None:
        super().__init__(p)
        self.brightness = pair_of('brightness of RandomBrightness', brightness, '[0, 2]')

    def change(self, images: Tensor, u: Tensor) -> Tensor:
        more = between(u[:, 0], self.brightness) - 1
        return (images + per_image(more)).clamp_(0, 1)


class RandomContrast(Operation):
    """All values multiplied by a number: kornia's ``RandomContrast``, exactly.

    Args:
        contrast: least and greatest factor.
        p: probability.
    """

    num_parameters = 1

    def __init__(self, contrast: Sequence[float] = (1.0, 1.0), p: float = 1.0) -> None:
        super().__init__(p)
        self.contrast = pair_of('contrast of RandomContrast', contrast, '[0, inf)')

    def change(self, images: Tensor, u: Tensor) -> Tensor:
        return (images * per_image(between(u[:, 0], self.contrast))).clamp_(0, 1)


class RandomGaussianNoise(Operation):
    """Noise on each value of each channel: kornia's ``RandomGaussianNoise``, up to 5.4 ``std``.

    As there, values may leave [0, 1] and are not cut off, which keeps the mean; operations after it
    that need the range cut off.

    Args:
        std: standard deviation; 1 is the range of the images.
        p: probability.
    """

    num_parameters = 2

    def __init__(self, std: float = 1.0, p: float = 0.5) -> None:
        super().__init__(p)
        check_number('std of RandomGaussianNoise', std, '[0, inf)')
        self.std = std

    def change(self, images: Tensor, u: Tensor) -> Tensor:
        noise = pixel_normals(u, images[0].numel()).view_as(images)
        return noise.mul_(self.std).add_(images)
