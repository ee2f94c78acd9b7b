"""The one list of the images in a folder: for training, features, galleries and checks of data;
and the one way to read and write list files."""

import codecs
import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from mmengine import fileio

from mmcoke.files import write_whole
from mmcoke.messages import shown

from .reading import EXTENSIONS

SERVICE_FOLDERS = frozenset(
    (
        '@eaDir',
        '@Recently-Snapshot',
        '@Recycle',
        '@tmp',
        '#recycle',
        '#snapshot',
        '$RECYCLE.BIN',
        '$Recycle.Bin',
        'RECYCLER',
        'System Volume Information',
        'lost+found',
        'Network Trash Folder',
        'Temporary Items',
        'Thumbs',
        '__MACOSX',
        '__pycache__',
    )
)
"""What computers and network drives put beside images; with hidden folders (``.ipynb_checkpoints``,
``.thumbnails``, ``.git``) they are no images and no classes, at every depth."""

NOT_DECODED = ('.heic', '.heif', '.jxl', '.svg', '.psd', '.dng', '.cr2', '.cr3', '.nef', '.arw')
"""Endings of images that the reader cannot decode."""

NUM_KINDS = 8
"""Kinds of what was passed over that a line names."""


class Listing(NamedTuple):
    """What is in a folder of images.

    Attributes:
        root: the folder.
        images: paths below it, separated by ``/``, sorted as whole strings.
        empty: folders directly in it without an image, sorted.
        passed_over: how many files, by what (an ending, or the folder that they are in) and why.
    """

    root: str
    images: list[str]
    empty: list[str]
    passed_over: Counter[tuple[str, str]]

    @property
    def classes(self) -> list[str]:
        """Folders directly in it that hold images, sorted."""
        return sorted({image.split('/', 1)[0] for image in self.images if '/' in image})

    @property
    def by_class(self) -> list[str]:
        """The images in class folders, class by class: the order of mmpretrain's CustomDataset.

        It differs from that of the whole strings where a class is called as another one with a
        character before ``/`` behind it: ``a/0.jpg`` is ahead of ``a-b/0.jpg`` here only.
        """
        return sorted((i for i in self.images if '/' in i), key=lambda image: image.split('/', 1))

    @property
    def is_labelled(self) -> bool:
        """Whether every image lies in a class folder."""
        return bool(self.images) and all('/' in image for image in self.images)

    def note(self) -> str:
        """What was passed over, as a line; '' if nothing was."""
        kinds = [
            f'{count:,} {shown(what)} ({why})'
            for (what, why), count in sorted(self.passed_over.items(), key=lambda kv: (-kv[1], kv))
        ]
        if len(kinds) > NUM_KINDS:
            kinds[NUM_KINDS:] = [f'and {len(kinds) - NUM_KINDS} kinds more']
        root = shown(self.root.rstrip('/'))
        return f'Passed over in {root}: {", ".join(kinds)}.' if kinds else ''


def list_images(root: str | Path, extensions: Sequence[str] = EXTENSIONS) -> Listing:
    """The images in a folder and below it.

    Hidden and service folders below it are passed over (it may be one itself), and hidden files.
    Links to folders are followed, but each folder counts once: under its own name rather than a
    link's. Broken links and folders that cannot be opened are passed over.

    Args:
        root: a folder, or an address (``s3://...``) whose backend in mmengine lists files.
        extensions: endings of the files that are images, in small letters.
    """
    root, endings = os.fspath(root), tuple(extensions)
    walk, images = Walk(root), []
    for file in addressed(root) if '://' in root else walk.files():
        why = why_passed_over(file, endings)
        if why is None:
            images.append(file)
        # In a folder that is passed over, other files are nobody's loss.
        elif not why[0].startswith('in ') or file.lower().endswith(endings):
            walk.passed_over[why] += 1
    images.sort()
    filled = {image.split('/', 1)[0] for image in images}
    return Listing(root, images, sorted(walk.top - filled), walk.passed_over)


def why_passed_over(file: str, endings: tuple[str, ...]) -> tuple[str, str] | None:
    """What a file below the root counts as and why it is no image; None if it is one."""
    *folders, name = file.split('/')
    for folder in folders:
        if kind := kind_of(folder):
            return f'in {folder}', kind
    ending = ending_of(name)
    if name.startswith('.'):
        return ending, 'hidden file'
    if name.lower().endswith(endings):
        return None
    return ending, 'not decoded' if ending in NOT_DECODED else 'no image'


def ending_of(file: str) -> str:
    """Of a file's name, in small letters."""
    return PurePosixPath(file).suffix.lower() or 'without ending'


def kind_of(folder: str) -> str:
    """Why a folder of this name holds no images; '' if it may."""
    if folder.startswith('.'):
        return 'hidden folder'
    return 'service folder' if folder in SERVICE_FOLDERS else ''


def addressed(root: str) -> Iterator[str]:
    """Files below an address, relative to it."""
    backend = fileio.get_file_backend(root, enable_singleton=True)
    yield from backend.list_dir_or_file(root, list_dir=False, list_file=True, recursive=True)


class Walk:
    """Files below a folder; links to folders are followed, and each folder counts once.

    Links come after all other folders, in their order: so the name that a folder gets depends
    neither on the order of the file system nor on a link to it.

    Attributes:
        top: folders directly in the root, after :meth:`files`.
        passed_over: what is neither a file nor a folder to walk, after :meth:`files`.
    """

    def __init__(self, root: str) -> None:
        self.root, self.links, self.top = root, [''], set()
        self.passed_over: Counter[tuple[str, str]] = Counter()
        # A link to a folder around the root is a circle, too.
        self.seen = set(map(str, Path(os.path.realpath(root)).parents))

    def files(self) -> Iterator[str]:
        """Paths below the root, in no order."""
        while self.links:
            self.links.sort()
            folders = [self.links.pop(0)]
            while folders:
                folder = folders.pop()
                path = os.path.realpath(os.path.join(self.root, folder))
                if path in self.seen:
                    self.passed_over['links', 'circles, or folders listed already'] += 1
                    continue
                self.seen.add(path)
                for entry in self.entries(folder):
                    yield from self.visit(entry, os.path.join(folder, entry.name), folders)

    def entries(self, folder: str) -> list[os.DirEntry]:
        """What is in a folder."""
        try:
            with os.scandir(os.path.join(self.root, folder)) as entries:
                return list(entries)
        except OSError as error:
            self.passed_over[f'in {folder}', f'cannot be opened: {error.strerror}'] += 1
            return []

    def visit(self, entry: os.DirEntry, name: str, folders: list[str]) -> Iterator[str]:
        """The files that an entry stands for; a folder joins those to walk."""
        is_link = entry.is_symlink()
        if os.path.isdir(entry.path) if is_link else entry.is_dir():
            if kind_of(entry.name):
                yield from () if is_link else self.below(name)
                return
            (self.links if is_link else folders).append(name)
            if name == entry.name:
                self.top.add(name)
        elif os.path.isfile(entry.path) if is_link else entry.is_file():
            yield name
        else:
            why = 'broken link' if is_link else 'no file'
            self.passed_over[ending_of(name), why] += 1

    def below(self, folder: str) -> Iterator[str]:
        """All files below a folder that is passed over; links lead out of it and are no part."""
        for parent, _, files in os.walk(os.path.join(self.root, folder)):
            below = os.path.relpath(parent, self.root)
            yield from (os.path.join(below, file) for file in files)


# ---- list files


def read_lines(path: str | Path) -> list[str]:
    """Lines of a text file that are not blank; see :func:`numbered_lines`."""
    return [line for _, line in numbered_lines(path)]


def numbered_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Lines of a text file that are not blank, with their numbers, as any system writes them.

    A byte-order mark is no part of the first line, nor a carriage return of any; names that are not
    UTF-8 are kept as the file system has them. One line at a time, as there may be millions.

    Args:
        path: of a file, or an address that mmengine's backends open.
    """
    content = fileio.get(os.fspath(path))
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        content = content.decode('utf-16').encode()
    # Not splitlines: names may hold what it takes for the end of a line.
    lines = io.BytesIO(content.removeprefix(codecs.BOM_UTF8))
    del content
    for number, line in enumerate(lines, 1):
        if line := line.decode('utf-8', 'surrogateescape').strip():
            yield number, line


def split_label(line: str) -> tuple[str, int | None]:
    """Image and label of a line of a list file: ``class/a b.jpg 3``; None without a label."""
    name, *label = line.rsplit(maxsplit=1)
    if label and label[0].isascii() and label[0].removeprefix('-').isdecimal():
        return name, int(label[0])
    return line, None


def write_list(path: str | Path, lines: Iterable[tuple[str, int]]) -> None:
    """Write a list file of images and labels whole, with names as the file system has them."""
    content = ''.join(f'{image} {label}\n' for image, label in lines)
    write_whole(Path(path), lambda temporary: temporary.write_bytes(os.fsencode(content)))
