"""Sizes of image files, and networks that are too small for them."""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mmengine.logging import print_log
from PIL import Image

from mmcoke.datasets import read_image
from mmcoke.datasets.reading import FORMATS
from mmcoke.features.extractor import FeatureExtractor

from .vectors import ImageFiles

TIMES = 4
"""A photo whose short side is so many times that of the network's images loses its details."""

GREY = 8
"""Levels of 256 by which the channels of a grey photo may differ."""


def image_sizes(paths: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Pixels and bytes of image files; of those that cannot be opened (0, 0)."""
    for path in paths:
        try:
            # Only its header is read. Pillow's limit is about decoding.
            with Image.open(path, formats=FORMATS) as image:
                yield image.width * image.height, os.path.getsize(path)
        except Exception:
            yield 0, 0


def warn_of_small_network(
    extractor: FeatureExtractor, paths: Sequence[str | Path], name: str
) -> None:
    """Say that a network for small or grey images sees little of photos, if the first ones are."""
    files = ImageFiles(paths, extractor)
    for row in range(min(3, len(paths))):
        try:
            photo, image = read_image(paths[row]), files[row]['inputs']
        except Exception:  # it is noted where it is extracted
            continue
        side = min(image.shape[-2:])
        is_small = TIMES * side <= min(photo.shape[:2])
        spread = (photo.max(2).astype(int) - photo.min(2)).max()
        is_colour = extractor.grey and spread > GREY
        if is_small or is_colour:
            kind = 'grey ' if extractor.grey else ''
            print_log(
                f'{name} sees {kind}images of {side} x {side} pixels: most of what is on your '
                'photos is lost to it. For photos take another model (mmcoke zoo list).',
                logger='current',
                level=logging.WARNING,
            )
            return
