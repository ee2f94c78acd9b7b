"""One file over HTTP or from Google Drive, taken up where it broke off.

requests opens the connections, gdown finds the way through Google Drive's pages. Resuming is ours:
pooch has neither ranges nor hashes of which only the first digits are known, and urllib3's
``Retry`` repeats requests, but not a body that breaks off.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests
from requests import Response
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from urllib3.exceptions import InvalidHeader
from urllib3.util import Retry

CHUNK = 64 * 1024
"""Bytes; what has been read of a chunk is lost when the connection breaks."""

TIMEOUT = (10, 60)
"""Seconds to connect, and from one byte to the next."""

NUM_RETRIES = 4
"""In a row without progress."""

BACKOFF = 0.5
"""Seconds before the first retry; doubled for each further one."""

MAX_WAIT = 60.0
"""Seconds, however long a server asks to wait."""

TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
"""States of a server that may pass."""

Report = Callable[[int, int | None], None]
"""Is told how many bytes there are, and of how many."""


class DownloadError(OSError):
    """A file could not be had; says why, and what to do."""


class BrokenOffError(DownloadError):
    """Another try may help."""

    def __init__(self, message: str, wait: float | None = None):
        super().__init__(message)
        self.wait = wait


@dataclass
class Part:
    """A file on its way, and a note beside it: from where, and which version.

    Attributes:
        path: of what is there so far.
        address: where it comes from. What came from elsewhere is not continued.
        has_hash: the whole can be checked; without it a server must tell its versions apart.
        resumed: it is not of one piece.
    """

    path: Path
    address: str
    has_hash: bool
    resumed: bool = False

    @property
    def note_path(self) -> Path:
        return self.path.with_name(f'{self.path.name}.json')

    def note(self) -> dict:
        """What the server said about the file; empty if there is nothing to continue."""
        try:
            note = json.loads(self.note_path.read_text())
        except (OSError, ValueError):
            return {}
        usable = note.get('address') == self.address and (self.has_hash or version(note))
        return note if usable and self.path.is_file() else {}

    def size(self) -> int:
        """Bytes that are there."""
        return self.path.stat().st_size if self.note() else 0

    def begin(self, note: dict) -> None:
        """Start anew."""
        self.discard()
        self.note_path.write_text(json.dumps(note))
        self.path.touch()

    def discard(self) -> None:
        for path in (self.path, self.note_path):
            path.unlink(missing_ok=True)


def version(note: dict) -> str | None:
    """What ``If-Range`` takes: a weak ETag is not enough."""
    etag = note.get('etag') or ''
    return etag if etag and not etag.startswith('W/') else note.get('modified')


@contextmanager
def progress_bar(filename: str) -> Iterator[Report]:
    """A bar on the error stream."""
    columns = (
        TextColumn('{task.description}'),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(filename, total=None)
        yield lambda size, total: progress.update(task, completed=size, total=total)


def download_http(part: Part, report: Report) -> None:
    """Fill a part from its address, going on where it stopped; retries what may pass.

    Raises:
        DownloadError: if the server refuses, or after :data:`NUM_RETRIES` tries without progress.
            What has come stays, to be continued.
    """
    failures, most = 0, part.size()
    with requests.Session() as session:
        while True:
            try:
                return receive(session, part, report)
            except BrokenOffError as error:
                failures = 0 if part.size() > most else failures + 1
                most = max(most, part.size())
                if failures > NUM_RETRIES:
                    raise
                pause = BACKOFF * 2**failures if error.wait is None else error.wait
                time.sleep(min(pause, MAX_WAIT))


def receive(session: requests.Session, part: Part, report: Report) -> None:
    """One request for what is missing of a part."""
    note, size = part.note(), part.size()
    part.resumed = size > 0
    if size and size == note['total']:
        return
    try:
        with session.get(
            part.address, headers=ask_for(note, size), stream=True, timeout=TIMEOUT
        ) as response:
            write_body(response, part, report)
    except (requests.exceptions.SSLError, requests.exceptions.ProxyError) as error:
        raise DownloadError(f'{part.address}: {error}') from error
    except (
        requests.ConnectionError,
        requests.Timeout,
        requests.exceptions.ChunkedEncodingError,
    ) as error:
        # What urllib3 found, without what requests says around it.
        reason = getattr(error.args[0], 'reason', error) if error.args else error
        raise BrokenOffError(f'{part.address}: the connection failed ({reason}).') from error
    except requests.RequestException as error:
        raise DownloadError(f'{part.address}: {error}') from error


def ask_for(note: dict, size: int) -> dict[str, str]:
    """Headers of a request for the bytes from ``size`` on, of the same version."""
    # Compressed on the way, positions would mean something else.
    headers = {'Accept-Encoding': 'identity'}
    if size:
        headers['Range'] = f'bytes={size}-'
    if size and version(note):
        headers['If-Range'] = version(note)
    return headers


def write_body(response: Response, part: Part, report: Report) -> None:
    """Append the body to the part, or begin it anew where the server sends the whole file."""
    refuse(response, part)
    size = 0
    if response.status_code == 206:
        size = part.size()
        if not continues(response, part):
            part.discard()
            raise BrokenOffError(f'{part.address} sent another part than was asked for.')
    else:
        part.begin(note_of(response, part.address))
        part.resumed = False
    total = note_of(response, part.address)['total'] or part.note().get('total')
    with part.path.open('ab') as file:
        for chunk in response.iter_content(CHUNK):
            file.write(chunk)
            size += len(chunk)
            report(size, total)
    if total is not None and size != total:
        if size > total:
            part.discard()
        raise BrokenOffError(f'{part.address} sent {size} of {total} bytes.')


def refuse(response: Response, part: Part) -> None:
    """Raise what speaks against reading the body."""
    status, address = response.status_code, part.address
    if status in TRANSIENT:
        message = f'{address} answered {status} ({response.reason}). Try again later.'
        raise BrokenOffError(message, asked_wait(response))
    if status == 416:
        part.discard()
        raise BrokenOffError(f'{address} has fewer bytes than it had.')
    if status not in (200, 206):
        raise DownloadError(f'{address} answered {status} ({response.reason}).')
    if 'html' in response.headers.get('Content-Type', '').lower():
        raise DownloadError(
            f'{address} sent a web page instead of a file. Open it in a browser: it may ask for a '
            'login or a confirmation, or a proxy may be in between.'
        )


def asked_wait(response: Response) -> float | None:
    """Seconds of ``Retry-After``, given as such or as a date."""
    value = response.headers.get('Retry-After')
    if value is None:
        return None
    try:
        return max(0.0, Retry().parse_retry_after(value))
    except InvalidHeader:
        return None


def continues(response: Response, part: Part) -> bool:
    """Whether a partial answer begins where the part ends, and is of the same version."""
    note, size = part.note(), part.size()
    given = note_of(response, part.address)
    begins = response.headers.get('Content-Range', '').startswith(f'bytes {size}-')
    keys = ('etag', 'modified', 'total')
    same = all(given[key] == note[key] for key in keys if given[key] and note[key])
    return bool(note and size) and begins and same


def note_of(response: Response, address: str) -> dict:
    """What a server says about the whole file."""
    headers = response.headers
    if response.status_code == 206:
        total = headers.get('Content-Range', '').rpartition('/')[2]
    else:
        total = headers.get('Content-Length', '')
    return dict(
        address=address,
        etag=headers.get('ETag'),
        modified=headers.get('Last-Modified'),
        total=int(total) if total.isdecimal() else None,
    )


def download_drive(drive_id: str, path: Path, report: Report) -> None:
    """Get a file from Google Drive.

    Raises:
        DownloadError: if gdown is missing or fails, as when the file's daily quota is used up.
    """
    try:
        import gdown
    except ImportError as error:
        raise DownloadError(
            'Google Drive needs gdown, which is not installed (`pip install gdown`, or mmcoke '
            'with the extra [zoo]).'
        ) from error
    try:
        gdown.download(
            id=drive_id,
            output=str(path),
            quiet=True,
            resume=True,
            use_cookies=False,
            timeout=TIMEOUT[1],
            retries=NUM_RETRIES,
            progress=report,
        )
    except (gdown.exceptions.DownloadError, requests.RequestException) as error:
        reason = ' '.join(str(error).split())
        raise DownloadError(f'Google Drive refuses or fails: {reason}') from error
