"""A folder of photos, clustered, as one page."""

import base64
import io
import os
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from conftest import CONFIGS, ROOT
from PIL import Image

from mmcoke.curation import sizes
from mmcoke.reporting.gallery import HEIGHT, ranked, thumbnail_uri, write_gallery

OURS = CONFIGS / 'coke/coke_r18_1xb256_folder.py'
TOOL = ROOT / 'tools/photo_gallery.py'
SOURCE = re.compile(r'<img src="data:image/jpeg;base64,([^"]+)" alt="([^"]*)"')


def run_tool(monkeypatch, *args):
    monkeypatch.setattr(sys, 'argv', [str(TOOL), *map(str, args)])
    runpy.run_path(str(TOOL), run_name='__main__')


@pytest.fixture
def photos(shared_data, tmp_path):
    """Four photos of each of three classes, and one whose name is no good HTML."""
    for source in sorted((shared_data / 'caltech10/val').iterdir())[:3]:
        (tmp_path / 'photos' / source.name).mkdir(parents=True)
        for path in sorted(source.iterdir())[:4]:
            shutil.copy(path, tmp_path / 'photos' / source.name)
    shutil.copy(path, tmp_path / 'photos' / 'a <b> & "c".jpg')
    return tmp_path / 'photos'


def test_the_tool_shows_every_photo_once(photos, tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / 'resnet18.pth')
    network = ('--config', OURS, '--checkpoint', tmp_path / 'resnet18.pth')
    out = tmp_path / 'gallery.html'
    run_tool(monkeypatch, photos, *network, '--num-clusters', 3, '--out', out)
    page, said = out.read_text(), capsys.readouterr().out
    names = [name for _, name in SOURCE.findall(page)]
    files = [str(path.relative_to(photos)) for path in photos.rglob('*.jpg')]
    files.remove('a <b> & "c".jpg')
    assert sorted(names) == sorted([*files, 'a &lt;b&gt; &amp; &#34;c&#34;.jpg'])
    assert '13 photos, features of 512 numbers' in said
    sizes = [int(size) for size in re.findall(r'(\d+) photos?</span>', page)]
    assert sum(sizes) == 13 and sizes == sorted(sizes, reverse=True)
    assert str(tmp_path) not in page
    assert 'http' not in page  # needs nothing else
    with Image.open(io.BytesIO(base64.b64decode(SOURCE.search(page)[1]))) as image:
        assert image.height <= 2 * HEIGHT


def test_large_clusters_and_typical_photos_come_first():
    label = torch.tensor([4, 0, 4, 4, 2, 2])
    similarity = torch.tensor([0.1, 1.0, 0.9, 0.5, 0.2, 0.3])
    assert ranked(label, similarity, 6) == [[2, 3, 0], [5, 4], [1]]
    with pytest.raises(ValueError, match='7 photos, 6 labels'):
        ranked(label, similarity, 7)


def test_a_large_cluster_says_how_many_are_not_shown(image_folder, tmp_path):
    photos = sorted(image_folder.rglob('*.jpg'))
    label, similarity = torch.zeros(9, dtype=torch.int64), torch.linspace(0, 1, 9)
    write_gallery(tmp_path / 'x.html', photos, label, similarity, title='x', num_shown=2)
    page = (tmp_path / 'x.html').read_text()
    shown = [name for _, name in SOURCE.findall(page)]
    assert shown == [str(path.relative_to(image_folder)) for path in (photos[8], photos[7])]
    assert 'and 7 more' in page


def test_thumbnails_are_turned_as_their_exif_data_say(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new('RGB', (1000, 500)).save(tmp_path / 'turned.jpg', exif=exif)
    data = base64.b64decode(thumbnail_uri(tmp_path / 'turned.jpg').partition(',')[2])
    assert Image.open(io.BytesIO(data)).size == (HEIGHT, 2 * HEIGHT)


@pytest.mark.parametrize(
    'args', [[], ['name', '--config', 'x.py', '--checkpoint', 'x.pth'], ['--config', 'x.py']]
)
def test_a_network_is_named_in_one_way(args, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run_tool(monkeypatch, tmp_path, *args, '--num-clusters', 2)
    assert 'either the NAME of a model' in capsys.readouterr().err


def test_a_photo_that_is_gone_by_now_does_not_cost_the_page(image_folder, tmp_path):
    photos = sorted(image_folder.rglob('*.jpg'))
    photos[2].unlink()
    photos[5].write_bytes(b'no image')
    label, similarity = torch.zeros(9, dtype=torch.int64), torch.linspace(0, 1, 9)
    write_gallery(tmp_path / 'x.html', photos, label, similarity, title='x')
    shown = SOURCE.findall((tmp_path / 'x.html').read_text())
    assert len(shown) == 9
    kinds = {}
    for data, name in shown:
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            kinds[name] = len(image.getcolors(1 << 16) or range(100))
    blank = {str(photos[row].relative_to(image_folder)) for row in (2, 5)}
    assert {name for name, num_colours in kinds.items() if num_colours == 1} == blank


def test_names_that_are_not_utf8_are_shown_escaped(image_folder, tmp_path):
    source = next(image_folder.rglob('*.jpg'))
    photos = [Path(os.fsdecode(os.fsencode(tmp_path) + name)) for name in (b'/\xe9.jpg', b'/b.jpg')]
    for photo in photos:
        shutil.copy(source, photo)
    write_gallery(tmp_path / 'a.html', photos, torch.zeros(2).long(), torch.ones(2), title='two')
    names = [name for _, name in SOURCE.findall((tmp_path / 'a.html').read_text(encoding='utf-8'))]
    assert names == [r'\xe9.jpg', 'b.jpg']


def test_a_model_of_the_digits_says_that_photos_are_lost_on_it(photos, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(sizes, 'print_log', lambda message, **kwargs: said.append(message))
    out = tmp_path / 'gallery.html'
    run_tool(monkeypatch, photos, 'coke_tiny_1xb64_digits', '--num-clusters', 2, '--out', out)
    (warning,) = said
    assert warning.startswith('coke_tiny_1xb64_digits sees grey images of 16 x 16 pixels')
    assert out.exists()
