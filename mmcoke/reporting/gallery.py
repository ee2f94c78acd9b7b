"""One self-contained HTML page with photos in sections: clusters, groups, picks."""

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
from mmengine.logging import print_log
from PIL import Image
from torch import Tensor

from mmcoke.datasets import read_image
from mmcoke.messages import shown, some

from .pages import jpeg_uri, write_page

HEIGHT = 120
"""Of a thumbnail, in CSS pixels; it has twice as many, for sharp screens."""

RATIOS = (0.5, 3.0)
"""Width by height of a tile: narrower and wider photos leave a margin in it."""

MOST_BYTES = 24_000_000
"""Of thumbnails in a page; photos behind that are named."""

NUM_NAMES = 200
"""Photos of a section that are named, but not shown."""


class Photo(NamedTuple):
    """A photo on a page.

    Attributes:
        path: of the file.
        name: what it is called.
        note: behind its name.
        link: address of the file, as seen from the page; '' for none.
    """

    path: str | Path
    name: str
    note: str = ''
    link: str = ''


class Row(NamedTuple):
    """Photos beside each other, with a line above them ('' for none)."""

    title: str
    photos: Sequence[Photo]


class Section(NamedTuple):
    """A part of a page.

    Attributes:
        anchor: its name in addresses.
        title: its heading.
        note: behind that.
        rows: of photos.
        more: photos that are named only.
        rest: what is said of those that are not even named; '' if there are none.
        entry: what the index calls it.
        count: of photos, for the index.
        where: name of the file beside the page with the rest.
    """

    anchor: str
    title: str
    note: str
    rows: Sequence[Row]
    more: Sequence[Photo] = ()
    rest: str = ''
    entry: str = ''
    count: int = 0
    where: str = ''


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
    # What all have in common is nobody's business who gets the page; nor are there links.
    root = os.path.commonpath([photo.parent for photo in photos])
    sections = []
    for number, members in enumerate(ranked(label, similarity, len(photos)), 1):
        found = [
            Photo(photos[row], shown(os.path.relpath(photos[row], root)), f'{similarity[row]:.2f}')
            for row in members[: num_shown + NUM_NAMES]
        ]
        sections.append(cluster_section(str(number), found, len(members), num_shown))
    write_sections(path, sections, title=title, summary=summary, progress=progress)


def cluster_section(
    name: str, photos: Sequence[Photo], size: int, num_shown: int, note: str = '', where: str = ''
) -> Section:
    """The section of a cluster.

    Args:
        name: of the cluster.
        photos: some of it, in order; those behind the first ones are named only.
        size: of the cluster.
        num_shown: photos that are shown.
        note: behind the number of photos.
        where: name of the file beside the page with the others.
    """
    rest = size - len(photos)
    return Section(
        f'cluster-{name}',
        f'Cluster {name}',
        f'{counted(size, "photo")}{note}',
        [Row('', photos[:num_shown])],
        photos[num_shown:],
        f'and {rest:,} more{" in" if where else ""}' if rest else '',
        name,
        size,
        where,
    )


def write_sections(
    path: str | Path,
    sections: Iterable[Section],
    *,
    title: str,
    summary: str = '',
    facts: Sequence[tuple[str, str]] = (),
    files: Sequence[str] = (),
    progress: Callable[[Iterable], Iterable] = iter,
) -> None:
    """Write a page of photos, whole or not at all.

    Args:
        path: the HTML file.
        sections: of the page, in order.
        title, summary: above them.
        facts: names and values below the summary.
        files: names of files beside the page.
        progress: wraps the list of sections.
    """
    thumbnails = Thumbnails()
    content = [filled(section, thumbnails) for section in progress(list(sections))]
    options = dict(title=title, summary=summary, facts=facts, files=files, height=HEIGHT)
    write_page(path, 'gallery.html', sections=content, **options)
    if thumbnails.blank:
        print_log(
            f'{len(thumbnails.blank):,} photos could not be read again and are blank: '
            f'{some(thumbnails.blank)}.',
            logger='current',
            level=logging.WARNING,
        )


def filled(section: Section, thumbnails: 'Thumbnails') -> dict:
    """A section as the template takes it: photos with thumbnails, as many as there is room for."""
    rows, named = [], []
    for row in section.rows:
        tiles = []
        for photo in row.photos:
            if thumbnails.has_room:
                tiles.append(photo._asdict() | thumbnails.of(photo.path))
            else:
                named.append(photo)
        if tiles:
            rows.append(dict(title=row.title, tiles=tiles))
    return section._asdict() | dict(rows=rows, more=[*named, *section.more])


class Thumbnails:
    """Makes thumbnails as long as there is room in a page.

    Attributes:
        blank: paths of photos that could not be read.
    """

    def __init__(self) -> None:
        self.num_bytes, self.blank = 0, []

    @property
    def has_room(self) -> bool:
        """Whether one more may be made."""
        return self.num_bytes < MOST_BYTES

    def of(self, path: str | Path) -> dict:
        """Data URI and shape of a tile."""
        uri, ratio = thumbnail_or_blank(path, self.blank)
        self.num_bytes += len(uri)
        return dict(thumbnail=uri, ratio=f'{min(max(ratio, RATIOS[0]), RATIOS[1]):.3f}')


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


def thumbnail_or_blank(path: str | Path, blank: list) -> tuple[str, float]:
    """A thumbnail, and its width by its height; of a photo that is damaged or gone by now a grey
    square.

    Args:
        path: of the photo.
        blank: gets the path if so.
    """
    try:
        image = thumbnail(path)
    # After all the work, nothing about one photo may cost the page.
    except Exception:
        blank.append(path)
        image = Image.new('RGB', (2 * HEIGHT, 2 * HEIGHT), 'lightgrey')
    return jpeg_uri(image), image.width / image.height


def thumbnail(path: str | Path) -> Image.Image:
    """A small copy of an image file, turned as its EXIF data say."""
    image = Image.fromarray(cv2.cvtColor(read_image(path), cv2.COLOR_BGR2RGB))
    # Panoramas are not much wider than others.
    image.thumbnail((6 * HEIGHT, 2 * HEIGHT))
    return image


def thumbnail_uri(path: str | Path) -> str:
    """:func:`thumbnail` as a data URI."""
    return jpeg_uri(thumbnail(path))


def counted(number: int, what: str) -> str:
    """A number of things: ``1 photo``, ``2 photos``."""
    return f'{number:,} {what}{"" if number == 1 else "s"}'
