"""The model zoo, against a real server on loopback that does what servers do at their worst."""

import fnmatch
import hashlib
import io
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
import types
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import torchvision
from mmengine.config import Config
from mmengine.registry import DefaultScope
from test_converters import published, published_state, random_network

import mmcoke.registry  # noqa: F401
from mmcoke import zoo
from mmcoke.files import sha256_of
from mmcoke.registry import MODELS
from mmcoke.zoo import index, store, transfer

ROOT = Path(__file__).resolve().parent.parent


def checkpoint(seed=0, kilobytes=400, in_zip=True, **content):
    """Bytes of a small checkpoint; those of old torch versions are no zip files."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(kilobytes * 256, generator=generator)
    file = io.BytesIO()
    content = dict(state_dict={'backbone.weight': weight}) | content
    torch.save(content, file, _use_new_zipfile_serialization=in_zip)
    return file.getvalue()


def sha256(content):
    return hashlib.sha256(content).hexdigest()


CONTENT, OTHER = checkpoint(), checkpoint(seed=1)
CUT = len(CONTENT) // 2 // transfer.CHUNK * transfer.CHUNK


# ---- a server, and what goes wrong with it


class Site(ThreadingHTTPServer):
    """One file at any path. Each request takes the next of ``faults``; without one, all is well."""

    daemon_threads = True

    def __init__(self, content=CONTENT, etag='"1"', knows_ranges=True):
        super().__init__(('127.0.0.1', 0), Handler)
        self.content, self.etag, self.knows_ranges = content, etag, knows_ranges
        self.faults, self.requests = [], []
        self.address = f'http://127.0.0.1:{self.server_port}'

    def ranges(self):
        """``Range`` of each request so far."""
        return [headers.get('Range') for _, headers in self.requests]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        site = self.server
        site.requests.append((self.path, dict(self.headers)))
        fault = site.faults.pop(0) if site.faults else None
        if not (fault and fault(self)):
            self.answer()

    def answer(self, content=None, stop=None):
        """The file or the range that is asked for; at most ``stop`` bytes of it."""
        site = self.server
        content = site.content if content is None else content
        asked = self.headers.get('Range') if site.knows_ranges else None
        if asked and self.headers.get('If-Range', site.etag) != site.etag:
            asked = None
        start = int(asked[len('bytes=') : -1]) if asked else 0
        if asked and start >= len(content):
            return self.reply(416, b'', {'Content-Range': f'bytes */{len(content)}'})
        headers = {'ETag': site.etag} if site.etag else {}
        if asked:
            headers['Content-Range'] = f'bytes {start}-{len(content) - 1}/{len(content)}'
        self.reply(206 if asked else 200, content[start:], headers, stop)

    def reply(self, status, body=b'', headers=None, stop=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body[:stop])
        return True

    def log_message(self, *args):
        pass


def cut(stop=CUT):
    """The connection breaks off after so many bytes."""
    return lambda handler: handler.answer(stop=stop) or True


def status(code, **headers):
    headers = {name.replace('_', '-'): str(value) for name, value in headers.items()}
    return lambda handler: handler.reply(code, b'no', headers)


def web_page(handler):
    return handler.reply(200, b'<html>Quota exceeded</html>', {'Content-Type': 'text/html'})


def wrong_bytes(handler):
    content = bytearray(handler.server.content)
    content[CUT] ^= 1
    return handler.answer(bytes(content)) or True


def other_file_from_now_on(handler):
    handler.server.content, handler.server.etag = OTHER, '"2"'


def other_part(handler):
    """As many bytes as are missing, but from elsewhere in the file."""
    content = handler.server.content
    size = len(content) - CUT
    headers = {'Content-Range': f'bytes 0-{size - 1}/{len(content)}', 'ETag': '"1"'}
    return handler.reply(206, content[:size], headers)


def shorter_range(handler):
    """Less than was asked for, and said so; some proxies answer like this."""
    content, end = handler.server.content, CUT + 1000
    headers = {'Content-Range': f'bytes {CUT}-{end - 1}/{len(content)}', 'ETag': '"1"'}
    return handler.reply(206, content[CUT:end], headers)


def unnoticed_mixture(handler):
    """What an If-Range that is not understood brings: the end of another file."""
    headers = {'Content-Range': f'bytes {CUT}-{len(OTHER) - 1}/{len(OTHER)}', 'ETag': '"1"'}
    return handler.reply(206, OTHER[CUT:], headers)


def without_length(stop):
    """A body whose end is the end of the connection, as of old servers and proxies."""

    def fault(handler):
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(CONTENT[:stop])
        return True

    return fault


@pytest.fixture
def serve():
    sites = []

    def start(**options):
        site = Site(**options)
        threading.Thread(target=site.serve_forever, kwargs=dict(poll_interval=0.01)).start()
        sites.append(site)
        return site

    yield start
    for site in sites:
        site.shutdown()
        site.server_close()


@pytest.fixture
def site(serve):
    return serve()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and no waiting."""
    for name in ('MMCOKE_ZOO_MIRRORS', 'MMCOKE_ZOO_OFFLINE', 'XDG_CACHE_HOME'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    monkeypatch.setattr(transfer, 'BACKOFF', 0.001)
    return tmp_path / 'torch/hub/checkpoints/mmcoke'


def model_of(address='', sha='', filename='model.pth', kind='http', **options):
    """An entry for a file at an address."""
    source = zoo.Source(kind, address and f'{address}/{filename}', filename, sha)
    config = ROOT / 'configs/selfsup/coke/coke_r50_8xb64_in1k.py'
    return zoo.Entry('model', 'CoKe', config, source, **options)


@pytest.fixture
def add(monkeypatch):
    """Puts one entry into the zoo, alone; its file is on a site."""

    def add(site=None, published=True, **options):
        sha = sha256(site.content) if site and published else ''
        entry = model_of(**{'address': site.address if site else '', 'sha': sha} | options)
        for module in (index, store):
            monkeypatch.setattr(module, 'entries', lambda: (entry,))
        return entry

    return add


def left(cache):
    """Names of the files in the cache, locks aside."""
    return sorted(path.name for path in cache.glob('*') if path.suffix != '.lock')


# ---- a download


def test_a_file_comes_whole_and_only_once(site, add, cache):
    add(site)
    path = zoo.download('model')
    assert path == cache / 'model.pth'
    assert path.read_bytes() == CONTENT
    assert left(cache) == ['model.pth']
    assert zoo.download('model') == path
    assert len(site.requests) == 1


@pytest.mark.parametrize('torch_home', ['torch', None])
def test_the_cache_is_below_that_of_torch_hub(tmp_path, monkeypatch, torch_home):
    monkeypatch.delenv('TORCH_HOME')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'xdg'))
    if torch_home:
        monkeypatch.setenv('TORCH_HOME', str(tmp_path / torch_home))
    monkeypatch.setattr(torch.hub, '_hub_dir', None)
    assert zoo.cache_dir() == Path(torch.hub.get_dir()) / 'checkpoints' / 'mmcoke'


def test_a_copy_goes_to_another_folder(site, add, tmp_path):
    add(site)
    path = zoo.download('model', dest=tmp_path / 'new/folder')
    assert path == tmp_path / 'new/folder/model.pth'
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize('published', [True, False])
def test_a_broken_connection_is_taken_up_where_it_broke(site, add, published):
    add(site, published)
    site.faults = [cut(), cut()]
    assert zoo.download('model').read_bytes() == CONTENT
    first, second, third = site.ranges()
    assert first is None
    assert second == f'bytes={CUT}-'
    assert CUT < int(third[len('bytes=') : -1]) < len(CONTENT)
    assert site.requests[1][1]['If-Range'] == '"1"'


def test_a_part_is_taken_up_by_the_next_call(site, add, cache):
    add(site)
    site.faults = [cut()] + [status(503)] * 5
    with pytest.raises(zoo.DownloadError, match='answered 503'):
        zoo.download('model')
    assert left(cache) == ['model.pth.part', 'model.pth.part.json']
    assert (cache / 'model.pth.part').read_bytes() == CONTENT[:CUT]
    site.requests.clear()
    assert zoo.download('model').read_bytes() == CONTENT
    assert site.ranges() == [f'bytes={CUT}-']
    assert left(cache) == ['model.pth']


def test_a_part_that_is_all_there_is_not_asked_for_again(site, add, cache):
    """As when a process is killed just before the file gets its name."""
    add(site)
    cache.mkdir(parents=True)
    part = transfer.Part(cache / 'model.pth.part', f'{site.address}/model.pth', True)
    part.begin(dict(address=part.address, etag='"1"', modified=None, total=len(CONTENT)))
    part.path.write_bytes(CONTENT)
    assert zoo.download('model').read_bytes() == CONTENT
    assert not site.requests


def test_a_server_that_falls_silent_is_asked_again(site, add, monkeypatch):
    # Only the first request ends by its limit, which a busy machine keeps as well.
    monkeypatch.setattr(transfer, 'TIMEOUT', (60, 3))
    add(site)
    asked_again = threading.Event()

    def fall_silent(handler):
        handler.answer(stop=CUT)
        handler.wfile.flush()
        monkeypatch.setattr(transfer, 'TIMEOUT', (60, 60))
        asked_again.wait()
        return True

    site.faults = [fall_silent, lambda handler: asked_again.set()]
    assert zoo.download('model').read_bytes() == CONTENT
    assert site.ranges() == [None, f'bytes={CUT}-']


def test_a_server_that_ignores_ranges_sends_all_of_it_anew(serve, add):
    site = serve(knows_ranges=False)
    add(site)
    site.faults = [cut()]
    assert zoo.download('model').read_bytes() == CONTENT
    assert site.ranges() == [None, f'bytes={CUT}-']


def test_a_file_that_changes_meanwhile_is_not_mixed_with_the_old_one(site, add):
    add(site, published=False)
    site.faults = [cut(), other_file_from_now_on]
    assert zoo.download('model').read_bytes() == OTHER


def test_a_file_that_changes_is_refused_if_the_published_hash_is_of_the_old_one(site, add, cache):
    add(site)
    site.faults = [cut(), other_file_from_now_on]
    with pytest.raises(zoo.DownloadError, match=r'not .* as published'):
        zoo.download('model')
    assert left(cache) == []


def test_a_mixture_that_the_server_cannot_notice_is_fetched_anew(serve, add, cache):
    """Without ETag and Last-Modified only the hash tells; the part of an older file is dropped."""
    site = serve(content=OTHER, etag=None)
    add(site)
    site.faults = [lambda handler: handler.answer(CONTENT, stop=CUT) or True] + [status(503)] * 5
    with pytest.raises(zoo.DownloadError):
        zoo.download('model')
    assert 'model.pth.part' in left(cache)
    site.requests.clear()
    assert zoo.download('model').read_bytes() == OTHER
    assert site.ranges() == [f'bytes={CUT}-', None]


@pytest.mark.parametrize('published', [True, False])
def test_a_mixture_is_fetched_anew_within_one_call(site, add, published):
    """Without a published hash, the check sums of the zip file tell."""
    add(site, published)
    site.faults = [cut(), unnoticed_mixture]
    assert zoo.download('model').read_bytes() == CONTENT
    assert site.ranges() == [None, f'bytes={CUT}-', None]


def test_without_version_and_hash_nothing_is_continued(serve, add):
    site = serve(etag=None)
    add(site, published=False)
    site.faults = [cut()]
    assert zoo.download('model').read_bytes() == CONTENT
    assert site.ranges() == [None, None]


def test_a_weak_etag_is_no_version(serve, add):
    site = serve(etag='W/"1"')
    add(site, published=False)
    site.faults = [cut()]
    assert zoo.download('model').read_bytes() == CONTENT
    assert site.ranges() == [None, None]


def test_a_range_in_pieces_is_put_together(site, add):
    add(site)
    site.faults = [cut(), shorter_range]
    assert zoo.download('model').read_bytes() == CONTENT
    assert site.ranges() == [None, f'bytes={CUT}-', f'bytes={CUT + 1000}-']


def test_another_part_than_asked_for_is_not_appended(serve, add):
    """A file without hash and check sums: nothing else would tell."""
    site = serve(content=checkpoint(in_zip=False))
    add(site, published=False)
    site.faults = [cut(), other_part]
    assert zoo.download('model').read_bytes() == site.content
    assert site.ranges() == [None, f'bytes={CUT}-', None]


def test_a_range_that_the_server_no_longer_has_is_dropped(serve, add):
    site = serve(etag=None)
    add(site)
    site.faults = [cut(), status(416)]
    assert zoo.download('model').read_bytes() == CONTENT
    assert site.ranges() == [None, f'bytes={CUT}-', None]


@pytest.mark.parametrize('code', [401, 403, 404, 410])
def test_a_refusal_is_final_and_leaves_nothing(site, add, cache, code):
    entry = add(site)
    site.faults = [status(code)] * 9
    with pytest.raises(zoo.DownloadError, match=f'answered {code}') as error:
        zoo.download('model')
    assert len(site.requests) == 1
    assert left(cache) == []
    assert entry.source.address in str(error.value)
    assert str(cache / 'model.pth') in str(error.value)


@pytest.mark.parametrize('code', [429, 500, 502, 503])
def test_what_may_pass_is_tried_again(site, add, code):
    add(site)
    site.faults = [status(code)] * 3
    assert zoo.download('model').read_bytes() == CONTENT
    assert len(site.requests) == 4


def test_what_does_not_pass_ends(site, add, cache):
    add(site)
    site.faults = [status(500)] * 99
    with pytest.raises(zoo.DownloadError, match='answered 500'):
        zoo.download('model')
    assert len(site.requests) == 1 + transfer.NUM_RETRIES
    assert left(cache) == []


def test_a_server_that_asks_to_wait_is_heard(site, add, monkeypatch):
    pauses = []
    monkeypatch.setattr(transfer.time, 'sleep', pauses.append)
    add(site)
    now = time.time() // 1
    monkeypatch.setattr(transfer.time, 'time', lambda: now)
    soon = time.strftime('%a, %d %b %Y %H:%M:%S GMT', time.gmtime(now + 20))
    waits = ['7', '86400', soon, 'nonsense']
    site.faults = [status(429, Retry_After=wait) for wait in waits]
    assert zoo.download('model').read_bytes() == CONTENT
    assert pauses[0] == 7
    assert pauses[1] == transfer.MAX_WAIT
    assert pauses[2] == 20
    assert pauses[3] < 1


def test_a_dead_address_is_an_error_with_the_remedy(add, cache):
    add(address='http://127.0.0.1:9')
    with pytest.raises(zoo.DownloadError, match=r'connection failed.*\n.*in a browser'):
        zoo.download('model')
    assert left(cache) == []


def test_a_web_page_is_no_checkpoint(site, add, cache):
    add(site, published=False)
    site.faults = [web_page]
    with pytest.raises(zoo.DownloadError, match='web page'):
        zoo.download('model')
    assert left(cache) == []


def test_a_web_page_that_says_it_is_a_file_is_no_checkpoint(site, add, cache):
    add(site, published=False)
    headers = {'Content-Type': 'application/octet-stream'}
    site.faults = [lambda handler: handler.reply(200, b'<html>login</html>', headers)]
    with pytest.raises(zoo.DownloadError, match='is no checkpoint'):
        zoo.download('model')
    assert left(cache) == []


def test_a_web_page_in_between_does_not_cost_the_part(site, add, cache):
    add(site)
    site.faults = [cut(), web_page]
    with pytest.raises(zoo.DownloadError, match='web page'):
        zoo.download('model')
    assert (cache / 'model.pth.part').read_bytes() == CONTENT[:CUT]
    assert zoo.download('model').read_bytes() == CONTENT


@pytest.mark.parametrize('published', [True, False])
def test_wrong_bytes_of_the_right_length_are_refused(site, add, cache, published):
    add(site, published)
    site.faults = [wrong_bytes]
    with pytest.raises(zoo.DownloadError, match=r'SHA-256|check sum'):
        zoo.download('model')
    assert left(cache) == []


@pytest.mark.parametrize('digits', [8, 64])
def test_the_first_digits_of_a_hash_are_enough(site, add, digits):
    add(site, sha=sha256(CONTENT)[:digits])
    assert zoo.download('model').read_bytes() == CONTENT


@pytest.mark.parametrize('published', [True, False])
def test_a_file_cut_off_without_a_word_is_refused(site, add, cache, published):
    add(site, published)
    site.faults = [without_length(CUT)]
    with pytest.raises(zoo.DownloadError, match=r'SHA-256|cut off'):
        zoo.download('model')
    assert left(cache) == []
    site.faults = [without_length(None)]
    assert zoo.download('model').read_bytes() == CONTENT


# ---- the hash of the first download


def test_the_first_hash_is_recorded_as_sha256sum_does(site, add, cache):
    add(site, published=False)
    zoo.download('model')
    assert (cache / 'model.pth.sha256').read_text() == f'{sha256(CONTENT)}  model.pth\n'


def test_a_later_download_must_equal_the_first(site, add, cache):
    add(site, published=False)
    zoo.download('model').unlink()
    site.content, site.etag = OTHER, '"2"'
    record = cache / 'model.pth.sha256'
    with pytest.raises(zoo.DownloadError, match='as the first download') as error:
        zoo.download('model')
    assert f'delete {record}' in str(error.value)
    assert left(cache) == ['model.pth.sha256']
    record.unlink()
    assert zoo.download('model').read_bytes() == OTHER


@pytest.mark.parametrize('published', [True, False])
def test_a_file_that_is_damaged_later_is_noticed(site, add, published):
    add(site, published)
    path = zoo.download('model')
    path.write_bytes(CONTENT[:-1] + b'x')
    with pytest.raises(ValueError, match='Delete it and try again') as error:
        zoo.download('model')
    assert str(path) in str(error.value)
    path.unlink()
    assert zoo.download('model').read_bytes() == CONTENT


# ---- mirrors, offline, several processes


def test_mirrors_come_first_and_in_order(serve, add, monkeypatch):
    origin, missing, wrong, right = (serve() for _ in range(4))
    missing.faults, wrong.faults = [status(404)], [wrong_bytes]
    bases = [f'{s.address}/zoo/' for s in (missing, wrong, right)]
    monkeypatch.setenv('MMCOKE_ZOO_MIRRORS', ' , '.join(bases))
    add(origin, filename='model v1.pth')
    assert zoo.download('model').read_bytes() == CONTENT
    for mirror in (missing, wrong, right):
        assert [path for path, _ in mirror.requests] == ['/zoo/model%20v1.pth']
    assert not origin.requests


def test_the_original_follows_the_mirrors(serve, add, monkeypatch, cache):
    origin, mirror = serve(), serve()
    mirror.faults = [cut()] + [status(500)] * 9
    monkeypatch.setenv('MMCOKE_ZOO_MIRRORS', mirror.address)
    add(origin)
    assert zoo.download('model').read_bytes() == CONTENT
    assert origin.ranges() == [None]
    assert left(cache) == ['model.pth']


def test_all_reasons_are_told(serve, add, monkeypatch):
    origin, mirror = serve(), serve()
    origin.faults, mirror.faults = [status(403)], [status(404)]
    monkeypatch.setenv('MMCOKE_ZOO_MIRRORS', f'{mirror.address},not an address')
    add(origin)
    with pytest.raises(zoo.DownloadError, match=r'answered 404(.|\n)*not an(.|\n)*answered 403'):
        zoo.download('model')


def test_offline_uses_the_cache_alone(site, add, monkeypatch, cache):
    add(site)
    monkeypatch.setenv('MMCOKE_ZOO_OFFLINE', '1')
    with pytest.raises(zoo.DownloadError, match='MMCOKE_ZOO_OFFLINE') as error:
        zoo.download('model')
    assert str(cache / 'model.pth') in str(error.value)
    assert not site.requests
    monkeypatch.setenv('MMCOKE_ZOO_OFFLINE', '0')
    path = zoo.download('model')
    monkeypatch.setenv('MMCOKE_ZOO_OFFLINE', '1')
    assert zoo.download('model') == path


FETCH = """
import sys
from mmcoke import zoo
from mmcoke.zoo import index, store
source = zoo.Source('http', sys.argv[1], 'model.pth', sys.argv[2])
entry = zoo.Entry('model', 'CoKe', None, source)
index.entries = store.entries = lambda: (entry,)
print(zoo.download('model'))
"""


def test_of_two_processes_one_downloads_and_both_get_the_file(site, add, cache, tmp_path):
    add(site)
    said = tmp_path / 'stderr'

    def when_the_other_waits(handler):
        while 'Waiting for another process' not in said.read_text():
            time.sleep(0.01)

    site.faults = [when_the_other_waits]
    command = [sys.executable, '-c', FETCH, f'{site.address}/model.pth', sha256(CONTENT)]
    with said.open('w') as stderr:
        pipes = dict(stdout=subprocess.PIPE, stderr=stderr, text=True)
        two = [subprocess.Popen(command, **pipes) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in two] == [str(cache / 'model.pth')] * 2
    assert len(site.requests) == 1
    assert (cache / 'model.pth').read_bytes() == CONTENT


def test_a_complete_file_needs_no_lock(site, add, cache):
    """So a cache may be read-only."""
    add(site)
    zoo.download('model')
    with store.locked(cache / 'model.pth'):
        assert zoo.download('model').read_bytes() == CONTENT


# ---- Google Drive


@pytest.fixture
def gdown(monkeypatch):
    """Stands in for gdown; ``gdown.answer`` is a file's bytes or an error."""

    class DriveError(Exception):
        pass

    def download(**options):
        gdown.calls.append(options)
        if isinstance(gdown.answer, Exception):
            raise gdown.answer
        options['progress'](len(gdown.answer), None)
        Path(options['output']).write_bytes(gdown.answer)
        return options['output']

    gdown = types.SimpleNamespace(
        exceptions=types.SimpleNamespace(DownloadError=DriveError),
        download=download,
        answer=CONTENT,
        calls=[],
    )
    monkeypatch.setitem(sys.modules, 'gdown', gdown)
    return gdown


@pytest.fixture
def drive(add):
    entry = add(kind='drive')
    source = replace(entry.source, address='https://drive.google.com/file/d/1a-B_c/view')
    object.__setattr__(entry, 'source', source)
    return source


def test_a_file_comes_from_drive(gdown, drive, cache):
    assert zoo.download('model').read_bytes() == CONTENT
    assert gdown.calls[0]['id'] == '1a-B_c'
    assert gdown.calls[0]['resume']
    assert left(cache) == ['model.pth', 'model.pth.sha256']


def test_gdown_takes_our_arguments(gdown, drive, monkeypatch):
    zoo.download('model')
    monkeypatch.delitem(sys.modules, 'gdown')
    import inspect

    real = pytest.importorskip('gdown')
    inspect.signature(real.download).bind(**gdown.calls[0])
    assert issubclass(real.exceptions.FileURLRetrievalError, real.exceptions.DownloadError)


@pytest.mark.parametrize('problem', ['quota', 'absent'])
def test_if_drive_refuses_the_file_can_be_put_there_by_hand(
    gdown, drive, cache, problem, monkeypatch
):
    gdown.answer = gdown.exceptions.DownloadError('Too many users\nhave viewed this file.')
    reason = 'Too many users have viewed'
    if problem == 'absent':
        monkeypatch.setitem(sys.modules, 'gdown', None)
        reason = 'pip install gdown'
    with pytest.raises(zoo.DownloadError, match=reason) as error:
        zoo.download('model')
    assert drive.address in str(error.value)
    assert str(cache / 'model.pth') in str(error.value)
    assert left(cache) == []
    (cache / 'model.pth').write_bytes(CONTENT)
    assert zoo.download('model').read_bytes() == CONTENT
    assert left(cache) == ['model.pth', 'model.pth.sha256']


def test_a_page_of_drive_is_no_checkpoint(gdown, drive, cache):
    gdown.answer = b'<!DOCTYPE html><title>Google Drive - Quota exceeded</title>'
    with pytest.raises(zoo.DownloadError, match='is no checkpoint'):
        zoo.download('model')
    assert left(cache) == []


def test_mirrors_serve_files_of_drive(gdown, drive, site, monkeypatch):
    monkeypatch.setenv('MMCOKE_ZOO_MIRRORS', site.address)
    assert zoo.download('model').read_bytes() == CONTENT
    assert not gdown.calls


def test_half_a_file_put_there_by_hand_is_refused_and_not_deleted(drive, cache):
    cache.mkdir(parents=True)
    (cache / 'model.pth').write_bytes(CONTENT[:CUT])
    with pytest.raises(ValueError, match='cut off') as error:
        zoo.download('model')
    assert str(cache / 'model.pth') in str(error.value)
    assert left(cache) == ['model.pth']


class Evil:
    def __reduce__(self):
        return os.mkdir, ('evil',)


def test_a_file_that_would_run_code_is_refused_with_the_reason(
    gdown, drive, cache, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    gdown.answer = checkpoint(extra=Evil())
    with pytest.raises(zoo.DownloadError, match=r'is refused: it holds .*mkdir'):
        zoo.download('model')
    assert not (tmp_path / 'evil').exists()
    assert left(cache) == []


# ---- files that come with mmcoke, and recipes


def test_a_shipped_file_is_used_where_it_is_and_checked(add, tmp_path, cache):
    path = tmp_path / f'model-{sha256(CONTENT)[:8]}.pth'
    path.write_bytes(CONTENT)
    entry = add(kind='shipped', filename=path.name, sha=sha256(CONTENT)[:8])
    object.__setattr__(entry, 'source', replace(entry.source, address=str(path)))
    assert zoo.download('model') == path
    assert zoo.download('model', dest=tmp_path / 'copy').read_bytes() == CONTENT
    path.write_bytes(OTHER)
    with pytest.raises(ValueError, match='Install mmcoke again'):
        zoo.download('model')
    path.unlink()
    with pytest.raises(FileNotFoundError, match='Install mmcoke again'):
        zoo.download('model')


def test_a_metafile_names_a_shipped_file(tmp_path):
    (tmp_path / 'metafile.yml').write_text(
        """
Collections:
  - Name: CoKe
Models:
  - Name: small
    In Collection: CoKe
    Config: configs/small.py
    Weights: mmcoke://small
    Source: small-0123abcd.pth
    Results:
"""
    )
    (entry,) = index.read_metafile(tmp_path / 'metafile.yml', tmp_path)
    address = str(ROOT / 'mmcoke/zoo/weights/small-0123abcd.pth')
    assert entry.source == zoo.Source('shipped', address, 'small-0123abcd.pth', '0123abcd')
    assert entry.config == tmp_path / 'configs/small.py'


def test_a_recipe_without_weights_says_so(add):
    add(kind='none')
    with pytest.raises(ValueError, match='without published weights'):
        zoo.download('model')


# ---- conversion


@pytest.fixture(scope='module')
def authors():
    """A file as the authors' code writes it, and the network in it."""
    network = random_network(18, 128)
    file = io.BytesIO()
    torch.save(published(published_state(network.state_dict(), 'two_views_or_more')), file)
    return file.getvalue(), network


def backbone_of(network):
    return {n: x for n, x in network.encoder.state_dict().items() if not n.startswith('fc.')}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize('convert', [None, 'mmcoke'])
def test_the_authors_files_become_checkpoints_of_mmcoke(serve, add, authors, convert):
    content, network = authors
    add(serve(content=content), published=False, layout='coke', filename='coke.pth.tar')
    path = zoo.download('model', convert=convert)
    assert path.name == 'coke-mmcoke.pth'
    state = torch.load(path, weights_only=True)['state_dict']
    backbone = {n.removeprefix('backbone.'): x for n, x in state.items() if 'backbone.' in n}
    assert equal(backbone, backbone_of(network))
    assert {'neck.fc0.weight', 'labelers.0.kmeans.centers'} <= state.keys()


@pytest.mark.parametrize('convert', ['torchvision', 'timm'])
def test_the_authors_files_become_backbones_for_others(serve, add, authors, convert, tmp_path):
    content, network = authors
    add(serve(content=content), published=False, layout='coke', filename='coke.pth.tar')
    path = zoo.download('model', dest=tmp_path, convert=convert)
    assert path == tmp_path / f'coke-{convert}.pth'
    state = torch.load(path, weights_only=True)
    assert equal(state, backbone_of(network))
    theirs = torchvision.models.resnet18()
    theirs.fc = torch.nn.Identity()
    theirs.load_state_dict(state, strict=True)


def test_a_file_is_converted_once(serve, add, authors, monkeypatch):
    add(serve(content=authors[0]), published=False, layout='coke')
    path = zoo.download('model')
    monkeypatch.setattr(store, 'convert_file', None)
    assert zoo.download('model') == path


def test_a_new_file_is_converted_anew(serve, add, authors):
    site = serve(content=authors[0])
    add(site, published=False, layout='coke')
    old = zoo.download('model')
    for name in ('model.pth', 'model.pth.sha256'):
        (zoo.cache_dir() / name).unlink()
    file = io.BytesIO()
    torch.save(published(random_network(18, 16).state_dict()), file)
    site.content, site.etag = file.getvalue(), '"2"'
    new = zoo.download('model')
    assert new != old
    assert len(torch.load(new, weights_only=True)['state_dict']['neck.fc2.weight']) == 16


def test_what_is_no_coke_says_what_is_missing(site, add):
    add(site, layout='coke')
    with pytest.raises(ValueError, match='it is no CoKe'):
        zoo.download('model')
    converted = zoo.cache_dir() / 'converted'
    assert not [path for path in converted.rglob('*') if path.is_file() and path.suffix != '.lock']


@pytest.mark.parametrize('layout', ['mmselfsup', 'mmpretrain', 'mmcoke'])
def test_files_that_load_as_they_are_stay_so(site, add, layout):
    add(site, layout=layout)
    assert zoo.download('model', convert='mmcoke').read_bytes() == CONTENT


def test_the_backbone_of_openmmlabs_files_goes_elsewhere(serve, add):
    resnet = torchvision.models.resnet18()
    resnet.fc = torch.nn.Identity()
    state = {f'backbone.{name}': x for name, x in resnet.state_dict().items()}
    state |= {'neck.fc0.weight': torch.zeros(3, 3), 'memory_bank.centroids': torch.zeros(3, 3)}
    file = io.BytesIO()
    torch.save(dict(meta=dict(epoch=440), state_dict=state), file)
    add(serve(content=file.getvalue()), layout='mmselfsup')
    found = torch.load(zoo.download('model', convert='torchvision'), weights_only=True)
    assert equal(found, resnet.state_dict())


@pytest.mark.parametrize('convert', ['torchvision', 'timm'])
def test_a_sobel_network_is_not_exported(site, add, convert):
    add(site, input='sobel')
    with pytest.raises(ValueError, match=f'for {convert}: .*two channels of a Sobel filter'):
        zoo.download('model', convert=convert)
    assert not site.requests


def test_an_unknown_layout_is_refused_first(site, add):
    add(site)
    with pytest.raises(ValueError, match="'keras'; use one of torchvision, timm, mmcoke"):
        zoo.download('model', convert='keras')
    assert not site.requests


# ---- the index


NAMES = zoo.list()
COKE = {
    'coke_r50_1view_1000e': 'coke_r50_8xb64_in1k',
    'coke_r50_2view_1000e': 'coke_r50_8xb64-2view_in1k',
    'coke_r50_mcrop_800e': 'coke_r50_8xb64-mcrop_in1k',
}


def test_no_name_means_two_models():
    names = [n.lower() for entry in index.entries() for n in (entry.name, *entry.aliases)]
    assert len(set(names)) == len(names)
    files = [entry.source.filename for entry in index.entries() if entry.source.filename]
    assert len(set(files)) == len(files)


@pytest.mark.parametrize('name', NAMES)
def test_every_config_exists_loads_and_builds(name):
    entry = zoo.show(name)
    cfg = Config.fromfile(entry.config)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmpretrain')):
        model = MODELS.build(cfg.model)
    assert sum(x.numel() for x in model.backbone.parameters())


@pytest.mark.parametrize('name', NAMES)
def test_every_entry_is_complete(name):
    entry = zoo.show(name)
    assert entry.config.stem == name
    assert entry.paper['Title']
    assert entry.paper['URL'].startswith('https://')
    assert entry.source.kind in ('http', 'drive', 'none', 'shipped')
    assert all(figure.source and figure.metrics for figure in entry.published)
    assert entry.command or not (entry.measured or entry.source.kind == 'drive')
    if entry.source.kind == 'http':
        assert len(entry.source.sha256) >= 8
    if entry.source.kind == 'shipped':
        assert sha256_of(Path(entry.source.address)).startswith(entry.source.sha256)
        assert len(entry.source.sha256) >= 8


def test_published_and_measured_figures_are_apart():
    odc = zoo.show('odc_r50_8xb64_in1k')
    assert [f.metrics['mAP'] for f in odc.published if f.task == 'SVM'] == [78.42]
    assert not odc.measured
    digits = zoo.show('odc_tiny_1xb64_digits')
    assert not digits.published
    assert digits.measured


def test_the_authors_models_have_both_names():
    for alias, name in COKE.items():
        entry = zoo.show(alias)
        assert entry is zoo.show(name.upper())
        assert entry.layout == 'coke'
        assert entry.source.filename == f'{alias}.pth.tar'
    assert zoo.show('coke_r50_2view_1000e').source.drive_id == '1PMBwwSlqa0qrDCR_40XzptHBv8Wsat9p'


def test_hashes_of_openmmlabs_files_come_from_their_names():
    assert zoo.show('odc_r50_8xb64_in1k').source.sha256 == 'a755d9c0'
    assert zoo.show('deepcluster-sobel_r50_8xb64_in1k').source.sha256 == 'bb8681e2'
    assert zoo.show('deepcluster-sobel_r50_8xb64_in1k').input == 'sobel'


def test_names_are_found_by_pattern():
    assert set(COKE.values()) <= set(zoo.list('coke*'))
    assert zoo.list('*2view_1000e') == ['coke_r50_8xb64-2view_in1k']
    assert zoo.list('ODC') == [name for name in NAMES if name.startswith('odc')]
    assert zoo.list('nothing') == []


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(ValueError, match=r"no 'coke_r50_2views_1000e'.*coke_r50_2view_1000e"):
        zoo.show('coke_r50_2views_1000e')


def test_swav_comes_from_mmpretrains_own_index(monkeypatch):
    (name,) = index.NEIGHBOURS.values()
    entry = zoo.show(name)
    assert entry.layout == 'mmpretrain'
    assert entry.source.sha256 == '5b3fc7fc'
    assert 'mmpretrain' in entry.config.parts
    assert [figure.metrics for figure in entry.published] == [{'Top 1 Accuracy': 70.5}]
    monkeypatch.setattr(index, 'find_spec', lambda package: None)
    index.entries.cache_clear()
    try:
        assert name not in zoo.list()
    finally:
        index.entries.cache_clear()


def test_mmpretrain_reads_the_index():
    """Models, configs and weights as its ModelHub, and so mim, sees them."""
    from modelindex.load_model_index import load

    found = load(str(index.index_file()))
    # OpenMMLab's paths of a README begin at the root; modelindex looks beside the metafile.
    assert all('Path to README' in problem for problem in found.check(silent=True))
    root = index.index_file().parent
    assert all((root / collection.readme).is_file() for collection in found.collections)
    models = {model.name: model for model in found.models}
    assert list(models) == [name for name in NAMES if name not in index.NEIGHBOURS.values()]
    for name, model in models.items():
        entry = zoo.show(name)
        assert root / model.config == entry.config
        if model.weights and model.weights.startswith('mmcoke://'):
            assert zoo.show(model.weights.removeprefix('mmcoke://')) is entry
        else:
            assert (model.weights or '') == entry.source.address
        assert model.full_model.metadata.data['Training Data']
    assert fnmatch.filter(models, '*coke*')


def test_model_hub_takes_the_index(monkeypatch):
    from mmpretrain.apis.model import ModelHub

    monkeypatch.setattr(ModelHub, '_models_dict', {})
    path = index.index_file()
    ModelHub.register_model_index(path, config_prefix=path.parent)
    found = ModelHub._models_dict['coke_r50_8xb64_in1k']
    assert Path(found.config).samefile(zoo.show('coke_r50_8xb64_in1k').config)


def test_the_index_is_found_without_an_install(monkeypatch, tmp_path):
    assert index.index_file().samefile(ROOT / 'model-index.yml')
    package = tmp_path / 'site-packages/mmcoke'
    (package / '.mim').mkdir(parents=True)
    monkeypatch.setattr(index, 'PACKAGE', package)
    with pytest.raises(FileNotFoundError, match='Install mmcoke again'):
        index.index_file()
    (package / '.mim/model-index.yml').touch()
    assert index.index_file() == package / '.mim/model-index.yml'


def test_the_zoo_is_light_to_import():
    code = 'import sys, mmcoke.zoo as zoo; zoo.list(); print("torch" in sys.modules)'
    assert subprocess.check_output([sys.executable, '-c', code], text=True).strip() == 'False'


# ---- the command line


@pytest.fixture
def tool(monkeypatch, capsys):
    def run(*args):
        monkeypatch.setattr(sys, 'argv', ['zoo.py', *args])
        code = 0
        try:
            runpy.run_path(str(ROOT / 'tools/zoo.py'), run_name='__main__')
        except SystemExit as error:
            code = error.code
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_the_tool_lists(tool):
    code, out, _ = tool('list', 'coke_r50*')
    assert code == 0
    assert all(name in out for name in (*COKE, *COKE.values()))
    assert 'odc' not in out
    assert '74.9 ImageNet-1k (published)' in out
    assert 'No name matches' in tool('list', 'nothing')[1]


def test_no_cell_of_the_list_is_blank(tool):
    """Of models without weights, or without a figure, it says so."""
    _, out, _ = tool('list')
    rows = [line.split('│')[1:-1] for line in out.splitlines() if line.startswith('│')]
    models = [cells for cells in rows if not cells[0].startswith('   ')]  # not their other names
    assert len(models) == len(zoo.list())
    assert all(cell.strip() for cells in models for cell in cells)
    assert 'none: a recipe' in out and 'not measured' in out


def test_the_tool_shows(tool, cache):
    code, out, _ = tool('show', 'coke_r50_2view_1000e')
    assert code == 0
    assert "checkpoint='mmcoke://coke_r50_2view_1000e'" in out
    assert "Top 1 Accuracy: 74.9 (the authors' README, github.com/idstcv/CoKe)" in out
    assert str(cache / 'coke_r50_2view_1000e.pth.tar') in out
    assert 'measured by this project' in tool('show', 'odc_tiny_1xb64_digits')[1]


def test_the_tool_prints_the_path_and_nothing_else(tool, site, add, tmp_path):
    add(site)
    code, out, err = tool('download', 'model', '--dest', str(tmp_path))
    assert code == 0
    assert out == f'{tmp_path / "model.pth"}\n'
    assert 'model.pth' in err


@pytest.mark.parametrize('name', ['modell', 'model'])
def test_the_tool_ends_with_the_error(tool, site, add, name):
    add(site)
    site.faults = [status(404)]
    code, out, _ = tool('download', name)
    assert code.startswith('error: ')
    assert out == ''


def test_ctrl_c_leaves_a_part_that_is_taken_up(tool, site, add, cache):
    add(site)
    part = cache / 'model.pth.part'
    # Ignored, as in a shell's background jobs, it would never arrive.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    interrupted = threading.Event()

    def ctrl_c(handler):
        handler.answer(stop=CUT)
        while not (part.is_file() and part.stat().st_size):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        return interrupted.wait()  # else the end of the connection might come first

    site.faults = [ctrl_c]
    try:
        code, _, err = tool('download', 'model')
    finally:
        interrupted.set()
        signal.signal(signal.SIGINT, before)
    assert code == 130
    assert 'same command again' in err
    kept = part.stat().st_size
    assert kept
    assert json.loads((cache / 'model.pth.part.json').read_text())['total'] == len(CONTENT)
    assert tool('download', 'model')[0] == 0
    assert site.ranges() == [None, f'bytes={kept}-']
    assert (cache / 'model.pth').read_bytes() == CONTENT
