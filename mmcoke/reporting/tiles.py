"""Small pictures of a data set's images, each once in a page however often it is shown."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image

from mmcoke.messages import shown

from .gallery import thumbnail
from .pages import jpeg_uri, png_uri

SIDE = 128
"""Of a picture, in pixels; half as many in CSS, for sharp screens."""

TINY = 48
"""Images up to this size stay as they are, and keep their pixels."""

MOST_BYTES = 20_000_000
"""Of all pictures in a page."""


class Tiles:
    """Makes small pictures as long as there is room in a page.

    Attributes:
        uris: data URIs, in order of their numbers.
        failed: how many images have no picture: they cannot be read, or are no files or arrays.
        left_out: how many had no room.
    """

    def __init__(self) -> None:
        self.uris: list[str] = []
        self.failed = self.left_out = 0
        self._numbers: dict[str, int] = {}
        self._known: dict[tuple, dict | None] = {}
        self._num_bytes = 0

    def of(self, images: str, row: int, record_of: Callable[[int], Mapping[str, Any]]) -> dict:
        """Number of the picture of an image (None for none), its name, and whether it is tiny.

        Args:
            images: name of their data set.
            row: in it.
            record_of: from a row to the record of the data set.
        """
        key = images, row
        if key not in self._known:
            record = record_of(row)
            self._known[key] = dict(number=None, name=name_of(record, row)) | self._made(record)
        return self._known[key]

    def _made(self, record: Mapping[str, Any]) -> dict:
        if self._num_bytes >= MOST_BYTES:
            self.left_out += 1
            return dict(number=None, tiny=False)
        try:
            uri, tiny = picture(record)
        except Exception:  # nothing about one image may cost the page
            self.failed += 1
            return dict(number=None, tiny=False)
        if uri not in self._numbers:
            self._numbers[uri] = len(self.uris)
            self.uris.append(uri)
            self._num_bytes += len(uri)
        return dict(number=self._numbers[uri], tiny=tiny)


def name_of(record: Mapping[str, Any], row: int) -> str:
    """What an image is called: the last two parts of its path, or its place in the data set."""
    path = record.get('img_path')
    return shown('/'.join(str(path).split('/')[-2:])) if path else f'image {row}'


def picture(record: Mapping[str, Any]) -> tuple[str, bool]:
    """A small picture of an image as a data URI, and whether it is shown with its pixels.

    Args:
        record: with ``img_path``, or ``img`` in RGB or grey, uint8.
    """
    if 'img' in record:
        image = Image.fromarray(np.asarray(record['img']).squeeze())
    else:
        image = thumbnail(record['img_path'])
    if max(image.size) <= TINY:
        return png_uri(image), True
    image = square(image.convert('RGB'))
    image.thumbnail((SIDE, SIDE))
    return jpeg_uri(image), False


def square(image: Image.Image) -> Image.Image:
    """The middle of an image."""
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return image.crop((left, top, left + side, top + side))
