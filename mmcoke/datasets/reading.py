"""The one reader of image files: for training, features, galleries and checks of data.

:func:`read_image` is the seam: whatever decodes an image, all tools get its pixels and its verdict.
"""

import io
import logging
import os
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine import fileio
from mmengine.logging import print_log
from PIL import ExifTags, Image, UnidentifiedImageError, features

from mmcoke.messages import describe, shown

CODECS = dict(WEBP='webp', AVIF='avif', JPEG2000='jpg_2000')
"""Formats that some builds of Pillow lack, and the names of their codecs there."""

FORMATS = tuple(
    name
    for name in ('JPEG', 'PNG', 'BMP', 'DIB', 'GIF', 'PPM', 'TIFF', 'WEBP', 'AVIF', 'JPEG2000')
    if name not in CODECS or features.check(CODECS[name])
)
"""What is decoded, by Pillow's names; told by the content of a file, not by its ending. Pillow
knows more, but for some of them starts other programs."""

EXTENSIONS = tuple(
    sorted(
        ending
        for ending, name in Image.registered_extensions().items()
        if name in (*FORMATS, 'MPO') and ending != '.pfm'  # floating point
    )
)
"""Endings of the files that are images, in small letters; files may have any case."""

MAX_PIXELS = 1 << 28
"""268 megapixels. In 8-bit colour they take 0.8 GB, and up to 2 GB while they are decoded."""

LIMIT = 'MMCOKE_MAX_PIXELS'
"""Environment variable that sets another limit."""

FOURTEEN_BITS = 1 << 6
"""Of the highest byte: where all are below, no value has more than 14 bits."""

ORIENTATIONS = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: image.swapaxes(0, 1)[:, ::-1],
    7: lambda image: image.swapaxes(0, 1)[::-1, ::-1],
    8: lambda image: image.swapaxes(0, 1)[::-1],
}
"""From the pixels of a file to upright ones, by the numbers of EXIF."""


class UnreadableImageError(ValueError):
    """An image file that cannot be decoded.

    A data loader re-raises a worker's exception with the worker's whole traceback as its message;
    of that, only the last part is kept.

    Attributes:
        reason: why, without the name of the file.
    """

    def __init__(self, message: str, reason: str = '') -> None:
        super().__init__(message.rsplit(f'{type(self).__name__}: ', 1)[-1].strip())
        self.reason = reason


REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
"""How OpenCV is told by what to divide width and height of a JPEG while it decodes it."""


def content_of(path: str, backend_args: dict | None = None) -> bytes:
    """Content of a file, or of an address that mmengine's backends open.

    Local files are opened here: to look for their backend takes longer than to read them.
    """
    if backend_args is None and '://' not in path:
        with open(path, 'rb') as file:
            return file.read()
    return fileio.get(path, backend_args=backend_args)


def read_image(
    path: str | Path,
    *,
    get: Callable[[str], bytes] = content_of,
    decode: Callable[[bytes], Any] | None = None,
) -> Any:
    """Pixels of an image file, uint8 (H, W, 3) in BGR, upright.

    Grey and palette images become colour, transparency is dropped, of an animation the first image
    is taken. Of 16 bits the higher 8 are kept, whatever values occur: a file of 10- to 14-bit data
    without scaling comes out dark, and a warning says so.

    Args:
        path: of a file, or an address that mmengine's backends open.
        get: from a path to the content.
        decode: from the content to pixels, or to what is made of them, which is then returned; None
            for :func:`decode_image`.

    Raises:
        UnreadableImageError: if it is absent, empty, cut off, no image, in floating point, or has
            more pixels than :data:`MAX_PIXELS`; that is seen before memory is spent.
    """
    try:
        content = get(os.fspath(path))
        if not content:
            raise ValueError('the file is empty')
        return (decode or decode_image)(content)
    # Damaged files raise nearly anything.
    except Exception as error:
        reason = reason_of(error)
        raise UnreadableImageError(
            f"Cannot read the image '{shown(path)}' ({reason}).", reason
        ) from None


def decode_image(content: bytes, reduction: int = 1) -> np.ndarray:
    """Pixels of the content of an image file; see :func:`read_image`.

    JPEG, and PNG without further data, are decoded by OpenCV, which is faster; all else, and what
    OpenCV gives up, by Pillow. Where both decode a file, their pixels are the same.

    Args:
        content: of the file.
        reduction: 1, 2, 4 or 8: by how much smaller a JPEG may come out, which saves most of its
            inverse cosine transforms. Width and height are those divided by it, rounded up; of
            files without :func:`jpeg_size`, and of what OpenCV gives up, they stay what they are.

    Raises:
        Exception: of any kind, if it cannot be decoded.
    """
    if size := bare_jpeg_size(content):
        check_size(*size)
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), REDUCED[reduction])
        if pixels is not None:
            return pixels
    with opened(content) as image:
        check_size(*image.size)
        if is_plain(image, content):
            is_png = image.format == 'PNG'
            flags = REDUCED[1 if is_png else reduction] | cv2.IMREAD_IGNORE_ORIENTATION
            pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
            if pixels is not None:
                # Looking for EXIF data, Pillow would decode a PNG; is_plain has seen to it.
                return pixels if is_png else upright(pixels, image)
        return cv2.cvtColor(pixels_of(image), cv2.COLOR_RGB2BGR)


def pixels_of(image: Image.Image) -> np.ndarray:
    """Pixels of a Pillow image, uint8 (H, W, 3) in RGB, by the rules of :func:`read_image`.

    Raises:
        Exception: of any kind, if it cannot be decoded or converted.
    """
    check_size(*image.size)
    is_deep = image.mode.startswith('I') or ';16' in str(getattr(image, 'tile', [])[:1])
    image.load()
    if image.mode == 'F':
        raise ValueError(
            'its pixels are floating-point numbers, whose range no file tells; save it in 8 or '
            '16 bits'
        )
    if image.mode.startswith('I'):
        pixels = np.repeat(high_byte(np.asarray(image))[..., None], 3, axis=2)
    else:
        pixels = np.asarray(image if image.mode == 'RGB' else image.convert('RGB'))
    if is_deep and pixels.max(initial=0) < FOURTEEN_BITS:
        warn_of_dark_images()
    return upright(pixels, image)


def check_size(width: int, height: int) -> None:
    """ValueError if an image, of which only the header has been read, has too many pixels."""
    limit = os.environ.get(LIMIT, MAX_PIXELS)
    try:
        limit = int(limit)
    except ValueError:
        raise ValueError(f'{LIMIT} must be a number of pixels, but is {limit!r}') from None
    if width * height > limit:
        raise ValueError(
            f'it has {width} x {height} pixels, more than {limit:,}; the environment '
            f'variable {LIMIT} sets another limit'
        )


def jpeg_size(content: bytes) -> tuple[int, int] | None:
    """Upright width and height of a JPEG that :func:`decode_image` can reduce; None of other files.

    Raises:
        Exception: of any kind, if its header cannot be read.
    """
    if size := bare_jpeg_size(content):
        return size
    if not content.startswith(b'\xff\xd8'):
        return None
    with opened(content) as image:
        if not is_plain(image, content):
            return None
        lies = orientation(image) in (5, 6, 7, 8)
        return image.size[::-1] if lies else image.size


def shorter_side(path: str | Path) -> int:
    """Of an image file, in pixels, from its header: whether it can be decoded is not tried.

    Raises:
        UnreadableImageError: if it is absent, empty or no image.
    """

    def side(content: bytes) -> int:
        with opened(content) as image:
            return min(image.size)

    return read_image(path, decode=side)


# ---- parts


def bare_jpeg_size(content: bytes) -> tuple[int, int] | None:
    """Width and height of a complete JPEG in grey or YCbCr without EXIF data; None of other files.

    Most are such, and Pillow would take 2 % of the time of decoding to look at the header.
    """
    if not (content.startswith(b'\xff\xd8') and is_complete_jpeg(content)):
        return None
    at = 2
    while content[at] == 0xFF and len(content) > at + 10:
        marker, length = content[at + 1], int.from_bytes(content[at + 2 : at + 4], 'big')
        if marker in (0xC0, 0xC1, 0xC2):  # baseline, extended, progressive
            precision, height, width, channels = struct.unpack_from('>BHHB', content, at + 4)
            return (width, height) if (precision, channels) in ((8, 1), (8, 3)) else None
        if marker == 0xE1 or not 0xC0 < marker < 0xFF:  # EXIF or XMP; no segment
            return None
        at = min(at + 2 + length, len(content) - 1)
    return None


def is_complete_jpeg(content: bytes) -> bool:
    """Whether the end is there; what is cut off, some versions of OpenCV fill up."""
    return content.rstrip(b'\0\r\n').endswith(b'\xff\xd9')


@contextmanager
def opened(content: bytes) -> Iterator[Image.Image]:
    """A Pillow image whose header has been read, for decoding within this context."""
    with warnings.catch_warnings():
        # Of strange metadata, which nobody reads, and of sizes that we allow.
        warnings.filterwarnings('ignore', module='PIL')
        try:
            image = Image.open(io.BytesIO(content), formats=FORMATS)
        except Image.DecompressionBombError:
            with no_limit_of_pillow():
                yield Image.open(io.BytesIO(content), formats=FORMATS)
        else:
            yield image


LOCK = threading.Lock()


@contextmanager
def no_limit_of_pillow() -> Iterator[None]:
    """Our own limit holds instead of Pillow's, which is one for the whole process."""
    with LOCK:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def is_plain(image: Image.Image, content: bytes) -> bool:
    """Whether OpenCV decodes a file as Pillow does: complete, and 8-bit grey or RGB."""
    if image.mode not in ('L', 'RGB'):
        return False
    if image.format in ('JPEG', 'MPO'):
        return is_complete_jpeg(content)
    is_8_bit = image.format == 'PNG' and content[24] == 8
    # Pillow finds an orientation behind the pixels only when it decodes them.
    return is_8_bit and not any(name in content for name in (b'eXIf', b'XML:com', b'Raw profile'))


def upright(pixels: np.ndarray, image: Image.Image) -> np.ndarray:
    """Pixels turned as the EXIF data of an image say, if they can be read."""
    turn = ORIENTATIONS.get(orientation(image))
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


def orientation(image: Image.Image) -> int | None:
    """The number of :data:`ORIENTATIONS` in the EXIF data of an image; None if there is none."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        return None


def high_byte(pixels: np.ndarray) -> np.ndarray:
    """The higher 8 of 16 bits; Pillow holds some 16-bit images in 32 bits.

    Raises:
        ValueError: if a value has more than 16 bits.
    """
    if pixels.size and not 0 <= pixels.min() <= pixels.max() < 1 << 16:
        raise ValueError('its pixels have more than 16 bits; save it in 8 or 16 bits')
    return (pixels >> 8).astype(np.uint8)


@cache
def warn_of_dark_images() -> None:
    """Once per process, as all images of a data set are usually of one kind."""
    print_log(
        'There are 16-bit images whose values have no more than 14 bits. Of 16 bits the higher 8 '
        'are taken, so they are dark or black: scale such data to 16 bits, or load them by a '
        'transform of your own.',
        logger='current',
        level=logging.WARNING,
    )


def reason_of(error: Exception) -> str:
    """Why a file cannot be read, in one line, without its name."""
    if isinstance(error, FileNotFoundError):
        return 'the file is absent'
    if isinstance(error, UnidentifiedImageError):
        return 'not an image'
    return ' '.join(describe(error).split())
