"""A page and pictures of views: what the network sees of some images."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from PIL import Image as Picture

from mmcoke.files import write_whole

from .pages import jpeg_uri, png_uri, write_page

SMALL = 64
"""Up to this side pixels are shown as they are: enlarged, without loss."""

MOST = 448
"""Longer side of an original, at most."""

CELL = 1.15
"""Side of an image in a picture, in inches."""


class Image(NamedTuple):
    """An image of the data set.

    Attributes:
        name: what it is called.
        original: uint8, RGB (H, W, 3), see :func:`shrunk`; None if it is not at hand.
    """

    name: str
    original: np.ndarray | None


class View(NamedTuple):
    """One of the views of all images.

    Attributes:
        text: how it is made.
        pixels: uint8, RGB (images, epochs, H, W, 3).
    """

    text: str
    pixels: np.ndarray


def write_views(
    out: Path,
    images: Sequence[Image],
    views: Sequence[View],
    *,
    title: str,
    facts: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
) -> list[Path]:
    """Write ``views.html``, and a grid of each view: ``view_1.png``, ``view_1.svg``, and so on.

    A row is an image: the original, then the view in each epoch.

    Args:
        out: folder.
        images: in the order of the views' first dimension.
        views: of the images.
        title, facts, notes: what the page says above them.

    Returns:
        What was written, the page first.
    """
    paths = [out / 'views.html']
    for number, view in enumerate(views, 1):
        figure = grid(images, view)
        paths += save_figure(figure, out / f'view_{number}', dpi=dots(view))
    content = dict(title=title, facts=facts, notes=notes, views=list(map(tiles, views)))
    content['images'] = [
        dict(name=name, uri='' if pixels is None else uri_of(pixels)) for name, pixels in images
    ]
    write_page(paths[0], 'views.html', **content)
    return paths


def save_figure(figure: Figure, path: Path, *, dpi: float = 150) -> list[Path]:
    """Write a figure as ``path.png`` and ``path.svg``; the same figure gives the same files."""
    found = []
    for kind in ('png', 'svg'):
        metadata = dict(Software=None) if kind == 'png' else dict(Date=None)
        options = dict(format=kind, dpi=dpi, metadata=metadata)
        found.append(path.with_name(f'{path.name}.{kind}'))
        write_whole(found[-1], lambda part, options=options: figure.savefig(part, **options))
    return found


def grid(images: Sequence[Image], view: View) -> Figure:
    """A figure of a view: a row per image, a column for the originals and for each epoch."""
    columns = ['original', *(f'epoch {epoch}' for epoch in range(view.pixels.shape[1]))]
    size = (CELL * len(columns) + 0.2, CELL * len(images) + 0.3)
    figure = Figure(figsize=size, layout='constrained')
    cells = figure.subplots(len(images), len(columns), squeeze=False)
    for row, image in enumerate(images):
        for axes, pixels in zip(cells[row], [image.original, *view.pixels[row]], strict=True):
            axes.axis('off')
            if pixels is not None:
                axes.imshow(pixels, interpolation='nearest')
    for axes, name in zip(cells[0], columns, strict=True):
        axes.set_title(name, fontsize=8)
    return figure


def dots(view: View) -> float:
    """Dots per inch at which a pixel of a view is a dot at least."""
    return max(120.0, max(view.pixels.shape[2:4]) / CELL)


def tiles(view: View) -> dict:
    """A view as the template takes it."""
    height, width = view.pixels.shape[2:4]
    rows = [[uri_of(pixels) for pixels in of_image] for of_image in view.pixels]
    return dict(text=view.text, width=width, height=height, rows=rows)


def shrunk(pixels: np.ndarray) -> np.ndarray:
    """Pixels (H, W, 3), or fewer: of a photo there is no need of more here."""
    picture = Picture.fromarray(pixels)
    picture.thumbnail((MOST, MOST))
    return np.asarray(picture)


def uri_of(pixels: np.ndarray) -> str:
    """Pixels (H, W, 3) as a data URI: without loss if they are few."""
    if max(pixels.shape[:2]) <= SMALL:
        return png_uri(np.ascontiguousarray(pixels))
    return jpeg_uri(Picture.fromarray(pixels))
