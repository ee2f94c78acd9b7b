"""How a page of ``templates`` is filled and written."""

import base64
import io
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image

from mmcoke.files import write_text


def write_page(path: str | Path, template: str, **content) -> None:
    """Fill a page of ``templates`` and write it; what is not marked as safe is escaped."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent / 'templates')
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    write_text(path, environment.get_template(template).render(**content))


def png_uri(pixels: np.ndarray | Image.Image) -> str:
    """Pixels, uint8 (H, W) or (H, W, 3), or an image, as a PNG in a data URI."""
    image = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
    stream = io.BytesIO()
    image.save(stream, 'PNG')
    return 'data:image/png;base64,' + base64.b64encode(stream.getvalue()).decode()


def jpeg_uri(image: Image.Image) -> str:
    """An image as a JPEG in a data URI."""
    stream = io.BytesIO()
    image.save(stream, 'JPEG', quality=75)
    return 'data:image/jpeg;base64,' + base64.b64encode(stream.getvalue()).decode()
