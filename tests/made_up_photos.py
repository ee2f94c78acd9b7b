"""Images that look a little like photos, for tests of augmentation."""

import torch
from torch.nn import functional


def smooth(num_images, size=32, seed=0):
    """Colours that change slowly, uint8 (n, 3, size, size)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(num_images, 3, 5, 5, generator=generator)
    images = functional.interpolate(coarse, (size, size), mode='bicubic').clamp(0, 1)
    return (images * 255).round().byte()


def photos(num_images, size=32, seed=0):
    """The same, with an object with a straight edge and a colour of its own, and grain."""
    generator = torch.Generator().manual_seed(seed + 1)
    rand = [torch.rand(num_images, n, 1, 1, generator=generator) for n in (1, 1, 3)]
    angle, place, colour = rand[0] * 2 * torch.pi, rand[1] * size - size / 4, rand[2]
    x, y = torch.arange(size), torch.arange(size)[:, None]
    part = 0.6 * (x * angle.cos() + y * angle.sin() > place)
    images = smooth(num_images, size, seed) / 255 * (1 - part) + part * colour
    images += 0.06 * torch.randn(num_images, 3, size, size, generator=generator)
    return (images.clamp(0, 1) * 255).round().byte()
