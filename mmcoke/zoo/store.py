"""The files of the model zoo: downloaded once, checked at every use."""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Literal, get_args
from urllib.parse import quote, unquote, urlsplit

from filelock import FileLock, Timeout

from mmcoke import __version__

from .index import Entry, Source, entries, find
from .transfer import DownloadError, Part, download_drive, download_http, progress_bar

CHECKPOINT_MAGIC = (b'PK\x03\x04', b'\x80')
"""First bytes of what torch.save writes: a zip file, or before torch 1.6 a pickle."""

ADDRESS = 'mmcoke://'
"""What the address of a model of the zoo begins with; its name follows."""

NAMED_BY_HASH = re.compile(r'-[0-9a-f]{8,}\.')
"""What names of published files end with."""

Layout = Literal['torchvision', 'timm', 'mmcoke']
BACKBONE_ONLY = ('torchvision', 'timm')


def download(name: str, dest: str | Path | None = None, convert: Layout | None = None) -> Path:
    """The file of a model, downloaded if it is not in the cache, and checked in any case.

    Args:
        name: of a model, or another name of it.
        dest: folder that gets a copy; None for the file in the cache.
        convert: 'torchvision' or 'timm': the backbone alone, as a state dict with their names.
            'mmcoke' or None: a checkpoint that mmcoke loads; files of the published CoKe code are
            converted to that.

    Returns:
        Path of a complete file.

    Raises:
        ValueError: if there is no such model, it has no weights, or it cannot be converted so; if
            a file is not the expected one, or would need more than ``weights_only``.
        DownloadError: an OSError; if the file cannot be had, with the reason for each address.
    """
    entry = find(name)
    check_convertible(entry, convert)
    path = fetch(entry)
    if convert in BACKBONE_ONLY or entry.layout == 'coke':
        path = converted(entry, path, convert or 'mmcoke')
    if dest is None:
        return path
    from mmcoke.files import write_whole

    copy = Path(dest) / path.name
    if not (copy.exists() and copy.samefile(path)):
        write_whole(copy, lambda temporary: shutil.copyfile(path, temporary))
    return copy


def local_file(checkpoint: str | Path) -> Path:
    """Path of a checkpoint: of ``mmcoke://NAME`` that of :func:`download`, of an address of HTTP
    that of :func:`address_file`, else as given."""
    if str(checkpoint).startswith(ADDRESS):
        return download(str(checkpoint).removeprefix(ADDRESS))
    if str(checkpoint).startswith(('http://', 'https://')):
        return address_file(str(checkpoint))
    return Path(checkpoint)


def address_file(address: str) -> Path:
    """The checkpoint at an address of HTTP, downloaded if it is not in the cache.

    Raises:
        DownloadError: an OSError; if it cannot be had.
        ValueError: if it is damaged, or would need more than ``weights_only``.
    """
    name = PurePosixPath(unquote(urlsplit(address).path)).name or 'checkpoint'
    # torch and mmengine keep theirs here by name alone, which tells contents apart only if it
    # ends with a hash.
    shared = cache_dir().parent / name
    if NAMED_BY_HASH.search(name) and shared.is_file():
        return shared
    path = cache_dir() / 'addresses' / sha256(address.encode()).hexdigest()[:16] / name
    if not path.is_file():
        with locked(path):
            if not path.is_file():
                download_address(address, path)
    return path


def download_address(address: str, path: Path) -> None:
    """Download a checkpoint that nothing is known about, and read it once.

    Raises as :func:`address_file`.
    """
    if switched_on('MMCOKE_ZOO_OFFLINE'):
        raise DownloadError(f'{address} is not in the cache, and MMCOKE_ZOO_OFFLINE is set.')
    part = Part(path.with_name(f'{path.name}.part'), address, has_hash=False)
    with progress_bar(path.name) as report:
        download_http(part, report)
    try:
        check_content(part.path, address)
        move(part.path, path)
    finally:
        part.discard()


def cache_dir() -> Path:
    """Where downloads are kept: below ``torch.hub``'s checkpoints, so it follows TORCH_HOME."""
    cache = os.getenv('XDG_CACHE_HOME', '~/.cache')
    home = os.getenv('TORCH_HOME', os.path.join(cache, 'torch'))
    return Path(home).expanduser() / 'hub' / 'checkpoints' / 'mmcoke'


def cached_file(source: Source) -> Path:
    """Where the file of a source is, or will be."""
    if source.kind == 'shipped':
        return Path(source.address)
    return cache_dir() / source.filename


# ---- from a source to a file that is right


class WrongFileError(ValueError):
    """A file is not the one that it should be."""


def fetch(entry: Entry) -> Path:
    """The file of a model as its authors made it, checked.

    Processes that ask at the same time wait for the first. Raises as :func:`download`.
    """
    source = entry.source
    if source.kind == 'none':
        with_weights = [e.name for e in entries() if e.source.kind != 'none']
        raise ValueError(
            f'{entry.name} is a recipe without published weights. Train it with {entry.config}, '
            f'or take one of {", ".join(with_weights)}.'
        )
    path = cached_file(source)
    if source.kind == 'shipped' and not path.is_file():
        raise FileNotFoundError(f'{path} is missing. Install mmcoke again.')
    # What is complete needs no lock: a cache may be read-only.
    if path.is_file() and expected_hash(source):
        check_cached(path, source)
        return path
    with locked(path):
        if path.is_file():
            adopt(path, source, path)
        else:
            obtain(source, path)
    return path


def obtain(source: Source, path: Path) -> None:
    """Download from the mirrors in their order, and then from the source itself."""
    if switched_on('MMCOKE_ZOO_OFFLINE'):
        raise DownloadError(
            f'{source.filename} is not in the cache, and MMCOKE_ZOO_OFFLINE is set. Unset it, or '
            f'save {source.address} as {path}.'
        )
    bases = [base.strip() for base in os.getenv('MMCOKE_ZOO_MIRRORS', '').split(',')]
    addresses = [f'{base.rstrip("/")}/{quote(source.filename)}' for base in bases if base]
    tries = [partial(from_http, address, source, path) for address in addresses]
    tries.append(
        partial(from_drive, source, path)
        if source.kind == 'drive'
        else partial(from_http, source.address, source, path)
    )
    reasons = []
    for attempt in tries:
        try:
            return attempt()
        except (DownloadError, WrongFileError) as error:
            reasons.append(str(error))
    raise DownloadError('\n'.join([*reasons, by_hand(source, path)]))


def by_hand(source: Source, path: Path) -> str:
    """The way that is always open."""
    return (
        f'{source.filename} could not be downloaded. Try again later, or open {source.address} in '
        f'a browser and save the file as {path}: there it is found and checked.'
    )


def from_http(address: str, source: Source, path: Path) -> None:
    """Download from an address; what was resumed and turns out wrong is fetched anew, once."""
    part = Part(path.with_name(f'{path.name}.part'), address, bool(expected_hash(source)))
    with progress_bar(source.filename) as report:
        download_http(part, report)
    try:
        adopt(part.path, source, address)
    except WrongFileError:
        part.discard()
        if not part.resumed:
            raise
        return from_http(address, source, path)
    move(part.path, path)
    part.discard()


def from_drive(source: Source, path: Path) -> None:
    """Download from Google Drive."""
    whole = path.with_name(f'{path.name}.gdown')
    with progress_bar(source.filename) as report:
        download_drive(source.drive_id, whole, report)
    try:
        adopt(whole, source, source.address)
    except WrongFileError:
        whole.unlink()
        raise
    move(whole, path)


def move(path: Path, target: Path) -> None:
    """Give a complete file its name, once all of it is on the disk."""
    with path.open('rb') as file:
        os.fsync(file.fileno())
    path.replace(target)


def switched_on(variable: str) -> bool:
    """Whether an environment variable is set to something else than 0."""
    return os.getenv(variable, '').lower() not in ('', '0', 'false', 'no', 'off')


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Of the processes of this machine, one at a time makes a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f'.{path.name}.lock'))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f'Waiting for another process that makes {path}.', file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


# ---- conversion


def check_convertible(entry: Entry, layout: str | None) -> None:
    """Refuse what cannot be converted, before anything is downloaded."""
    if layout not in (None, *get_args(Layout)):
        raise ValueError(
            f'Models cannot be converted to {layout!r}; use one of {", ".join(get_args(Layout))}.'
        )
    if layout in BACKBONE_ONLY and entry.input == 'sobel':
        raise ValueError(
            f'{entry.name} cannot be converted for {layout}: its first layer takes the two '
            "channels of a Sobel filter, which torchvision's and timm's ResNets do not have. Use "
            'mmcoke.models.ResNetSobel.'
        )


def converted(entry: Entry, path: Path, layout: Layout) -> Path:
    """A file in another layout, made once per version of mmcoke and of the file.

    Raises:
        ValueError: if the file cannot be read with ``weights_only``, or is not what its entry says.
    """
    version = f'{expected_hash(entry.source)[:8]}-{__version__}'
    name = f'{path.name.partition(".")[0]}-{layout}.pth'
    target = cache_dir() / 'converted' / version / name
    if target.is_file():
        return target
    source = path
    if layout in BACKBONE_ONLY and entry.layout == 'coke':
        source = converted(entry, path, 'mmcoke')
    with locked(target):
        if not target.is_file():
            convert_file(source, target, layout)
    return target


def convert_file(path: Path, target: Path, layout: Layout) -> None:
    """Convert a published CoKe checkpoint to mmcoke's layout, or export the backbone of another."""
    import mmcoke.registry  # noqa: F401  (first: it keeps mmcv quiet about missing operators)
    from mmcoke.weights.coke import coke_to_mmcoke
    from mmcoke.weights.torchvision import export_backbone

    if layout in BACKBONE_ONLY:
        export_backbone(path, target)
    else:
        coke_to_mmcoke(path, target)


# ---- hashes


def expected_hash(source: Source) -> str:
    """The published hash, or that of the first download; its first digits may be all."""
    record = record_path(source)
    if source.sha256 or not record.is_file():
        return source.sha256
    return record.read_text().split()[0]


def record_path(source: Source) -> Path:
    """Where the hash of the first download is kept, as ``sha256sum`` writes it."""
    path = cached_file(source)
    return path.with_name(f'{path.name}.sha256')


def adopt(path: Path, source: Source, origin: str | Path) -> None:
    """Check a new file, before it gets its name; record its hash if none is known.

    Raises:
        WrongFileError: if it is no checkpoint or another than expected. It stays where it is.
    """
    from mmcoke.files import sha256_of

    with path.open('rb') as file:
        if not file.read(4).startswith(CHECKPOINT_MAGIC):
            raise WrongFileError(f'{origin} is no checkpoint, but something else or cut off.')
    found, expected = sha256_of(path), expected_hash(source)
    if not found.startswith(expected):
        raise WrongFileError(f'{origin} {mismatch(found, source)}')
    if not expected:
        record(path, found, source, origin)


def record(path: Path, found: str, source: Source, origin: str | Path) -> None:
    """Keep the hash of a first download. It is read once: nothing else tells that it is whole."""
    from mmcoke.files import write_whole

    check_content(path, origin)
    line = f'{found}  {source.filename}\n'
    write_whole(record_path(source), lambda temporary: temporary.write_text(line))


def check_content(path: Path, origin: str | Path) -> None:
    """Read a new file once, before it gets its name.

    Raises:
        WrongFileError: if it is damaged, or would need more than ``weights_only``.
    """
    from mmcoke.files import read_checkpoint

    try:
        read_checkpoint(path, map_location='meta')
    except ValueError as error:
        raise WrongFileError(str(error).replace(str(path), str(origin), 1)) from error


def check_cached(path: Path, source: Source) -> None:
    """Compare a file of the cache with the hash that is known.

    Raises:
        WrongFileError: if it is another one.
    """
    from mmcoke.files import sha256_of

    found = sha256_of(path)
    if not found.startswith(expected_hash(source)):
        remedy = 'Install mmcoke again.' if source.kind == 'shipped' else 'Delete it and try again.'
        raise WrongFileError(f'{path} {mismatch(found, source)} {remedy}')


def mismatch(found: str, source: Source) -> str:
    """What differs, and from what."""
    text = f'has the SHA-256 {found[:12]}…, not {expected_hash(source)[:12]}…'
    if source.sha256:
        return f'{text} as published: it is damaged, or another file.'
    return (
        f'{text} as the first download: it is damaged, or another file. If the authors have '
        f'replaced theirs, delete {record_path(source)}.'
    )
