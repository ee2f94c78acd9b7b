"""One self-contained HTML page with the photos of each cluster."""

import base64
import io
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import cv2
from mmengine.logging import print_log
from PIL import Image
from torch import Tensor

from mmcoke.datasets import read_image
from mmcoke.messages import shown, some

from .report import write_page

HEIGHT = 120
"""Of a thumbnail, in CSS pixels; it has twice as many, for sharp screens."""


def write_gallery(
    path: str | Path,
    photos: Sequence[Path],
    label: Tensor,
    similarity: Tensor,
    *,
    title: str,
    summary: str = '',
    num_shown: int = 40,
    progress: Callable[[Iterable], Iterable] = iter,
) -> None:
    """Write the photos of each cluster: large clusters first, typical photos first.

    Args:
        path: the HTML file; written whole or not at all.
        photos: image files.
        label: cluster of each photo, integers (A,).
        similarity: of each photo to the center of its cluster (A,).
        title: of the page.
        summary: a line below it.
        num_shown: thumbnails of a cluster; the page embeds about 8 kB for each.
        progress: wraps the iterable of clusters, such as ``rich.progress.track``.

    Raises:
        ValueError: if the numbers of photos, labels and similarities differ.
    """
    blank: list[Path] = []
    # What all have in common is nobody's business who gets the page.
    root = os.path.commonpath([photo.parent for photo in photos])
    clusters = [
        dict(
            size=len(members),
            photos=[
                dict(
                    name=shown(os.path.relpath(photos[row], root)),
                    similarity=similarity[row].item(),
                    thumbnail=thumbnail_or_blank(photos[row], blank),
                )
                for row in members[:num_shown]
            ],
        )
        for members in progress(ranked(label, similarity, len(photos)))
    ]
    write_page(path, 'gallery.html', title=title, summary=summary, height=HEIGHT, clusters=clusters)
    if blank:
        print_log(
            f'{len(blank):,} photos could not be read again and are blank: {some(blank)}.',
            logger='current',
            level=logging.WARNING,
        )


def ranked(label: Tensor, similarity: Tensor, num_photos: int) -> list[list[int]]:
    """Rows of each cluster, the most similar to its center first; the largest cluster first."""
    if not len(label) == len(similarity) == num_photos:
        raise ValueError(
            f'There are {num_photos} photos, {len(label)} labels and {len(similarity)} '
            'similarities; each photo needs one of each.'
        )
    order = similarity.argsort(descending=True, stable=True)
    clusters = [order[label[order] == cluster].tolist() for cluster in label.unique()]
    return sorted(clusters, key=len, reverse=True)


def thumbnail_or_blank(path: Path, blank: list[Path]) -> str:
    """:func:`thumbnail_uri`; of a photo that is damaged or gone by now a grey square.

    Args:
        path: of the photo.
        blank: gets the path if so.
    """
    try:
        return thumbnail_uri(path)
    # After all the work, nothing about one photo may cost the page.
    except Exception:
        blank.append(path)
        return jpeg_uri(Image.new('RGB', (2 * HEIGHT, 2 * HEIGHT), 'lightgrey'))


def thumbnail_uri(path: Path) -> str:
    """A small JPEG of an image file, turned as its EXIF data say, as a data URI."""
    image = Image.fromarray(cv2.cvtColor(read_image(path), cv2.COLOR_BGR2RGB))
    # Panoramas are not much wider than others.
    image.thumbnail((6 * HEIGHT, 2 * HEIGHT))
    return jpeg_uri(image)


def jpeg_uri(image: Image.Image) -> str:
    """An image as a JPEG in a data URI."""
    stream = io.BytesIO()
    image.save(stream, 'JPEG', quality=75)
    return 'data:image/jpeg;base64,' + base64.b64encode(stream.getvalue()).decode()
