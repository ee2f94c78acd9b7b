"""The files of a sort: names of any bytes, tables, import files, folders, and the page."""

import csv
import json
import os
import re
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
import torch
from browser import Browser
from PIL import Image
from pyarrow import parquet

from mmcoke.curation import page, writers
from mmcoke.curation.hierarchy import Level
from mmcoke.curation.names import Names, read_paths, write_names
from mmcoke.curation.out_folder import RESULTS, OutFolder
from mmcoke.curation.result import Sorted
from mmcoke.reporting import gallery

NASTY = [
    b'plain.jpg',
    b'a b, "c" \'d\'.jpg',
    b'sub/#1 100%.jpg',
    b'sub/~tilde;&<x>.jpg',
    'grüße ✓ 写真.jpg'.encode(),
    b'not\xffutf8\xe9.jpg',
    b'two\nlines.jpg',
    b' spaces .jpg',
    b'back\\slash%2F.jpg',
]
"""Names that spoil tables, addresses or pages."""


@pytest.fixture
def result(tmp_path):
    """Nine images with such names, in three clusters of two levels."""
    root = tmp_path / 'photos & more #1'
    for i, name in enumerate(NASTY):
        path = Path(os.fsdecode(os.fsencode(root) + b'/' + name))
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (60 + 10 * i, 40), (25 * i, 90, 200 - 20 * i)).save(path, 'JPEG')
    write_names(tmp_path / 'names', map(os.fsdecode, NASTY))
    parent = torch.tensor([1, 0, 1])
    return Sorted(
        str(root),
        Names(tmp_path / 'names'),
        label=torch.tensor([0, 0, 1, 1, 2, 2, 2, 0, 1]),
        similarity=torch.tensor([0.9, 0.8, 0.7, 0.75, 0.6, 0.5, 0.65, 0.85, 0.55]),
        margin=torch.tensor([0.1] * 8 + [-0.05]),
        centers=torch.eye(3),
        coarser=[Level(parent, torch.tensor([3, 6]), torch.tensor([[0, 1.0, 0], [0.6, 0, 0.8]]))],
        group=torch.tensor([-1, 0, -1, 0, -1, -1, -1, 1, 1]),
        keep=torch.tensor([True, False, True, True, True, True, True, True, False]),
        rank=torch.tensor([0, 0, 2, 0, 0, 1, 0, 3, 0]),
    )


# ---- names


def test_names_of_any_bytes_are_kept(tmp_path):
    names = write_names(tmp_path / 'x', map(os.fsdecode, NASTY))
    assert [os.fsencode(name) for name in names] == NASTY
    assert os.fsencode(names[-1]) == NASTY[-1] and len(names) == 9
    assert len(write_names(tmp_path / 'empty', [])) == 0
    with pytest.raises(IndexError):
        names[9]


@pytest.mark.parametrize(
    ('content', 'expected'),
    [
        (b'a.jpg\n b .jpg \n\nc.jpg', [b'a.jpg', b' b .jpg ', b'c.jpg']),
        (b'\xef\xbb\xbfa.jpg\r\nb\xff.jpg\r\n', [b'a.jpg', b'b\xff.jpg']),
        (b'two\nlines.jpg\0b.jpg\0', [b'two\nlines.jpg', b'b.jpg']),
        ('a.jpg\r\nü.jpg\r\n'.encode('utf-16'), [b'a.jpg', 'ü.jpg'.encode()]),
    ],
    ids=['spaces', 'Windows', 'print0', 'UTF-16'],
)
def test_lists_of_paths_are_read_to_the_letter(content, expected, tmp_path):
    (tmp_path / 'paths.txt').write_bytes(content)
    assert [os.fsencode(name) for name in read_paths(tmp_path / 'paths.txt')] == expected


# ---- tables


def read_csv(path):
    with path.open(encoding='utf-8', errors='surrogateescape', newline='') as file:
        return list(csv.DictReader(file))


def test_the_table_of_images_has_their_order_and_the_bytes_of_their_names(result, tmp_path):
    writers.write_images_csv(result, tmp_path / 'x.csv')
    rows = read_csv(tmp_path / 'x.csv')
    assert [os.fsencode(row['path']) for row in rows] == NASTY
    assert list(rows[0]) == [
        *('path', 'cluster', 'cluster_1', 'similarity', 'margin'),
        *('duplicate_group', 'keep', 'pick_rank'),
    ]
    assert list(rows[2].values())[1:] == ['1', '0', '0.700000', '0.100000', '', 'true', '2']
    assert list(rows[8].values())[1:] == ['1', '0', '0.550000', '-0.050000', '1', 'false', '']


def test_the_parquet_table_says_the_same_with_types(result, tmp_path, monkeypatch):
    monkeypatch.setattr(writers, 'CHUNK_SIZE', 4)  # several groups of rows
    writers.write_images_parquet(result, tmp_path / 'x.parquet')
    table = parquet.read_table(tmp_path / 'x.parquet').to_pydict()
    assert table['path'][4] == 'grüße ✓ 写真.jpg'
    assert table['path'][5] == r'not\xffutf8\xe9.jpg'
    assert table['cluster'] == result.label.tolist()
    assert table['cluster_1'] == [1, 1, 0, 0, 1, 1, 1, 1, 0]
    assert table['similarity'] == result.similarity.tolist()
    assert table['duplicate_group'] == [None, 0, None, 0, None, None, None, 1, 1]
    assert table['keep'] == result.keep.tolist()
    assert table['pick_rank'] == [None, None, 2, None, None, 1, None, 3, None]


def test_of_one_cluster_the_margin_is_empty(result, tmp_path):
    result.margin = torch.full((9,), torch.inf)
    writers.write_images_csv(result, tmp_path / 'x.csv')
    writers.write_images_parquet(result, tmp_path / 'x.parquet')
    assert {row['margin'] for row in read_csv(tmp_path / 'x.csv')} == {''}
    assert parquet.read_table(tmp_path / 'x.parquet')['margin'].to_pylist() == [None] * 9


def test_the_table_of_clusters_has_all_levels(result, tmp_path):
    writers.write_clusters_csv(result, tmp_path / 'x.csv')
    rows = read_csv(tmp_path / 'x.csv')
    assert [(row['level'], row['cluster'], row['size'], row['parent']) for row in rows] == [
        ('0', '0', '3', '1'),
        ('0', '1', '3', '0'),
        ('0', '2', '3', '1'),
        ('1', '0', '3', ''),
        ('1', '1', '6', ''),
    ]
    assert float(rows[0]['spread']) == pytest.approx(1 - (0.9 + 0.8 + 0.85) / 3, abs=1e-6)
    # Centers 0 and 2 have similarity 0.6 and 0.8 to their coarser one, and three images each.
    assert float(rows[4]['spread']) == pytest.approx(1 - 0.7, abs=1e-6)
    exemplars = json.loads(rows[0]['exemplars'])
    assert [os.fsencode(name) for name in exemplars] == [NASTY[0], NASTY[7], NASTY[1]]
    assert [os.fsencode(n) for n in json.loads(rows[4]['exemplars'])] == [NASTY[6], NASTY[0]]


# ---- other programs


def test_label_studio_gets_the_picks_in_their_order_with_addresses_of_any_name(result, tmp_path):
    writers.write_label_studio(result, tmp_path)
    tasks = json.loads((tmp_path / 'label_studio.json').read_bytes())
    start = '/data/local-files/?d='
    assert all(task['data']['image'].startswith(start) for task in tasks)
    found = [unquote_to_bytes(task['data']['image'][len(start) :]) for task in tasks]
    assert found == [b'photos & more #1/' + NASTY[row] for row in (5, 2, 7)]
    (prediction,) = tasks[0]['predictions']
    view = ElementTree.fromstring((tmp_path / 'label_studio.xml').read_text())
    image, choices = view
    assert (choices.get('name'), choices.get('toName')) == ('cluster', image.get('name'))
    assert image.get('value') == '$image'
    (answer,) = prediction['result']
    assert (answer['from_name'], answer['to_name'], answer['type']) == (
        *('cluster', 'image', 'choices'),
    )
    assert answer['value'] == dict(choices=['2'])
    assert [choice.get('value') for choice in choices] == ['0', '1', '2']


def test_without_picks_label_studio_gets_all_images(result, tmp_path):
    result.rank.zero_()
    writers.write_label_studio(result, tmp_path)
    assert len(json.loads((tmp_path / 'label_studio.json').read_bytes())) == 9


def test_fiftyone_gets_a_manifest_and_labels_of_all_names_that_it_can_hold(result, tmp_path):
    assert writers.write_fiftyone(result, tmp_path) == 1
    manifest = json.loads((tmp_path / 'fiftyone/data.json').read_bytes())
    labels = json.loads((tmp_path / 'fiftyone/labels.json').read_bytes())
    assert list(manifest) == list(labels['labels']) == [str(i) for i in range(9) if i != 5]
    assert all(os.path.isfile(path) for path in manifest.values())
    assert labels['classes'] == ['0', '1', '2']
    assert labels['labels']['8'] == dict(
        label=1,
        confidence=pytest.approx(0.55),
        attributes=dict(margin=pytest.approx(-0.05), keep=False, duplicate_group=1, cluster_1=0),
    )
    assert labels['labels']['2']['attributes']['pick_rank'] == 2


# ---- folders


def test_folders_have_each_image_once(result, tmp_path):
    for kind in ('link', 'copy'):
        folder = tmp_path / kind
        assert writers.write_folders(result, folder, getattr(writers, kind)) == []
        for row, name in enumerate(NASTY):
            path = os.fsencode(folder / f'clusters/{int(result.label[row])}')
            path += b'/' + name.split(b'/')[-1]
            assert os.path.islink(path) == (kind == 'link')
            assert os.path.samefile(os.path.realpath(path), result.path(row)) == (kind == 'link')
            assert Path(os.fsdecode(path)).read_bytes() == Path(result.path(row)).read_bytes()
        assert sum(path.is_file() for path in folder.rglob('*')) == 9


def test_names_that_occur_twice_get_numbers():
    taken = set()
    names = ['a.jpg', 'b.jpg', 'a.jpg', 'A.JPG', 'a_2.jpg', 'a.jpg', 'noending', 'noending']
    assert [writers.free_name(name, taken) for name in names] == [
        *('a.jpg', 'b.jpg', 'a_2.jpg', 'A_3.JPG', 'a_2_2.jpg', 'a_4.jpg'),
        *('noending', 'noending_2'),
    ]
    composed, decomposed = 'é.jpg', 'é.jpg'  # one name on macOS
    assert writers.free_name(composed, taken) == composed
    assert writers.free_name(decomposed, taken) != decomposed
    longest = 'x' * 251 + '.jpg'
    assert writers.free_name(longest, taken) == longest
    second = writers.free_name(longest, taken)
    assert len(second) == 255 and second.endswith('x_2.jpg')


def test_an_image_that_is_gone_does_not_cost_the_folders(result, tmp_path):
    os.remove(result.path(0))
    assert writers.write_folders(result, tmp_path / 'out', writers.link) == ['plain.jpg']
    assert not (tmp_path / 'out/clusters/0/plain.jpg').exists()


def test_copies_that_do_not_fit_are_refused_before_the_first_one(result, tmp_path, monkeypatch):
    needed = sum(os.path.getsize(result.path(row)) for row in range(9))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage._replace(free=needed - 1))
    with pytest.raises(ValueError, match='Give --link instead'):
        writers.check_space(result, tmp_path)
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage._replace(free=needed))
    writers.check_space(result, tmp_path)


def test_a_file_system_without_links_says_what_to_do(result, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(1, 'Operation not permitted')

    monkeypatch.setattr(Path, 'symlink_to', refuse)
    with pytest.raises(ValueError, match='--copy'):
        writers.write_folders(result, tmp_path / 'out', writers.link)


# ---- whole or not at all


class Killed(BaseException):
    """Stands for a kill between two steps."""


def test_publishing_that_is_killed_anywhere_goes_on_to_the_same_end(tmp_path, monkeypatch):
    steps = [getattr(Path, name) for name in ('replace', 'rename', 'unlink')]
    counts = []

    def run(out, last):
        done = 0

        def step(function):
            def wrapped(self, *arguments, **options):
                nonlocal done
                done += 1
                if done > last:
                    raise Killed
                return function(self, *arguments, **options)

            return wrapped

        place = OutFolder(str(out))
        with monkeypatch.context() as patch:
            for function in steps:
                patch.setattr(Path, function.__name__, step(function))
            try:
                place.publish()
            finally:
                counts.append(done)

    def begin(out):
        """A result with links and a list of unreadable images; one without these over it."""
        place = OutFolder(str(out))
        place.write_settings(dict(root='x')) if not out.exists() else None
        for version, names in (('1', RESULTS), ('2', [*RESULTS[:4], *RESULTS[6:]])):
            staging = place.stage()
            for name in names:
                path = (
                    staging / name / 'inner' if name in ('clusters', 'fiftyone') else staging / name
                )
                path.parent.mkdir(exist_ok=True)
                path.write_text(f'{name} {version}')
            (staging / '.work/names').write_text(version)
            if version == '1':
                place.publish()
        return place

    def content(out):
        return {
            str(path.relative_to(out)): path.read_text()
            for path in out.rglob('*')
            if path.is_file() and path.name != 'lock'
        }

    begin(tmp_path / 'whole')
    run(tmp_path / 'whole', 1000)
    expected = content(tmp_path / 'whole')
    assert set(expected.values()) >= {'index.html 2', 'clusters 2', '2'}
    assert not any('1' in text for text in expected.values())
    assert 'unreadable.txt' not in expected
    for last in range(counts[0]):
        out = tmp_path / str(last)
        place = begin(out)
        with pytest.raises(Killed):
            run(out, last)
        # What cannot be seen as finished goes on; until then, the old result is whole.
        if not place.is_ready:
            assert set(content(out).values()) >= {'index.html 1', 'clusters 1'}
        run(out, 1000)
        assert content(out) == expected


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / 'holiday.txt').write_text('mine')
    with pytest.raises(ValueError, match=r'holds other files \(holiday.txt\)'):
        assert OutFolder(str(tmp_path)).is_new
    assert OutFolder(str(tmp_path / 'new')).is_new


# ---- the page


SUMMARY = dict(
    num_images=9,
    levels=[3, 2],
    sizes=dict(least=3, median=3.0, most=3),
    duplicates=dict(num_to_drop=2, num_groups=2),
    num_picks=3,
    unreadable=1,
    removed=0,
)
PROBE = """(() => {
    const boxes = [...document.querySelectorAll('figure')].map((figure) => ({
        section: figure.closest('section').querySelector('h2').id,
        image: figure.querySelector('img').getBoundingClientRect().toJSON(),
        caption: figure.querySelector('figcaption').getBoundingClientRect().toJSON(),
    }));
    return {
        width: document.documentElement.scrollWidth,
        images: document.images.length,
        missing: [...document.images].filter((image) => !image.naturalWidth).length,
        colour: getComputedStyle(document.body).backgroundColor,
        boxes,
    };
})()"""


@pytest.fixture(scope='module')
def started_browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp('profile')) as browser:
        yield browser


@pytest.fixture
def browser(started_browser):
    started_browser.errors.clear()
    return started_browser


@pytest.fixture
def opened_page(result, tmp_path, browser):
    """The page of nine images with nasty names, and a browser."""
    out = tmp_path / 'out'
    out.mkdir()
    page.write_page(result, out, out, SUMMARY)
    return out / 'index.html', browser


def test_the_page_is_whole_on_a_phone_and_on_a_screen_by_day_and_night(opened_page):
    path, browser = opened_page
    colours = set()
    for width, dark in ((390, False), (1280, True)):
        browser.open(path, width, dark=dark)
        seen = browser.run(PROBE)
        assert seen['width'] <= width
        assert seen['images'] >= 9 + 3 + 4 and seen['missing'] == 0
        colours.add(seen['colour'])
        for box in seen['boxes']:
            assert box['caption']['top'] >= box['image']['bottom'] - 0.5  # it covers nothing
    assert len(colours) == 2
    assert browser.errors == []


def test_rows_are_justified(tmp_path, browser):
    """All photos of a row have one height, and full rows one width."""
    photos = []
    for i, ratio in enumerate([1.5, 0.7, 2.4, 1, 1.3, 3, 0.8, 1.5, 1.1, 1.9, 0.6, 1.4, 1.2, 0.9]):
        photos.append(tmp_path / f'{i}.jpg')
        Image.new('RGB', (round(300 * ratio), 300)).save(photos[-1])
    label = torch.zeros(len(photos), dtype=torch.int64)
    gallery.write_gallery(tmp_path / 'x.html', photos, label, torch.ones(len(photos)), title='x')
    for width in (390, 1280):
        browser.open(tmp_path / 'x.html', width)
        rows = {}
        for box in browser.run(PROBE)['boxes']:
            rows.setdefault(round(box['image']['top']), []).append(box['image'])
        *full, _ = [rows[top] for top in sorted(rows)]
        assert full
        right = {round(row[-1]['right']) for row in full}
        assert max(right) - min(right) <= 1 and max(right) >= 0.9 * width
        for row in full:
            heights = [image['height'] for image in row]
            assert max(heights) - min(heights) < 1


def test_names_open_the_files_and_a_click_enlarges(opened_page, result):
    path, browser = opened_page
    browser.open(path, 1280)
    links = browser.run(
        "[...document.querySelectorAll('#cluster-2 ~ .photos a')].map((a) => a.href)"
    )
    found = [unquote_to_bytes(link.removeprefix('file://')) for link in links]
    assert found == [os.fsencode(result.path(row)) for row in (6, 4, 5)]
    wait = 'new Promise((done) => setTimeout(done, 100))'
    shown = "document.querySelector('dialog img')"
    browser.run("document.querySelector('#cluster-2 ~ .photos button').click()")
    names = []
    for key in (None, 'ArrowRight', 'ArrowRight', 'ArrowLeft'):
        if key:
            browser.press(key)
        browser.run(wait)
        names.append(browser.run(f'{shown}.alt'))
        # The file, not the thumbnail: 100 and more pixels wide, as they were made.
        assert browser.run(f'{shown}.src.startsWith("file:") && {shown}.naturalWidth > 90')
    assert names == ['two\\nlines.jpg', 'grüße ✓ 写真.jpg', r'not\xffutf8\xe9.jpg', names[1]]
    browser.press('Escape')
    browser.run(wait)
    assert browser.run("document.querySelector('dialog').open") is False
    assert browser.errors == []


def test_a_file_that_the_browser_cannot_show_is_enlarged_from_its_thumbnail(opened_page, result):
    path, browser = opened_page
    os.remove(result.path(6))
    browser.open(path, 1280)
    browser.run("document.querySelector('#cluster-2 ~ .photos button').click()")
    browser.run('new Promise((done) => setTimeout(done, 200))')
    assert browser.run("document.querySelector('dialog img').src.startsWith('data:')")
    assert browser.run("document.querySelector('dialog img').naturalWidth") > 0


def test_the_index_leads_to_picks_duplicates_and_every_cluster(opened_page):
    path, browser = opened_page
    browser.open(path, 1280)
    assert browser.run(
        "[...document.querySelectorAll('nav a')].map((a) => [a.innerText.replace(/\\s+/g, ' '), "
        '!!document.getElementById(a.hash.slice(1))])'
    ) == [
        *(['Picked 3', True], ['Duplicates 4', True]),
        *(['0 3', True], ['1 3', True], ['2 3', True]),
    ]


def test_the_page_needs_nothing_from_outside(result, tmp_path):
    page.write_page(result, tmp_path, tmp_path, SUMMARY)
    text = (tmp_path / 'index.html').read_text(encoding='utf-8')
    addresses = re.findall(r'(?:src|href)="([^"]*)"', text) + re.findall(r'url\((.*?)\)', text)
    outside = [a for a in addresses if ':' in a.split('/')[0] and not a.startswith('data:image/')]
    assert 'http' not in text and len(addresses) > 30 and outside == []


def test_a_page_of_very_many_images_is_bounded(result, tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, 'MOST_BYTES', 3000)
    monkeypatch.setattr(page, 'NUM_NAMED', 3)
    monkeypatch.setattr(page, 'MOST_CLUSTERS', 2)
    page.write_page(result, tmp_path, tmp_path, SUMMARY)
    text = (tmp_path / 'index.html').read_text(encoding='utf-8')
    thumbnails = sum(len(part.split('"')[0]) for part in text.split('src="data:')[1:])
    assert 3000 - 1000 < thumbnails < 3000 + 1000
    assert '1 smaller cluster with their exemplars in <a href="clusters.csv">' in text
    assert 'and 3 more</summary>' in text  # named instead of shown


def test_sizes_of_pages_with_a_million_images_stay_bounded_by_numbers():
    """Photos that are shown or named, of K clusters with thousands of images each."""
    for num_clusters in (1, 10, 100, 500):
        shown = num_clusters * min(40, max(2, page.NUM_TILES // num_clusters))
        named = num_clusters * min(200, page.NUM_NAMED // num_clusters)
        assert shown <= page.NUM_TILES and named <= page.NUM_NAMED


def test_typical_images_come_first_and_groups_are_led_by_the_one_to_keep(result):
    assert [rows.tolist() for rows in result.typical()] == [[0, 7, 1], [3, 2, 8], [6, 4, 5]]
    assert result.groups() == [[3, 1], [7, 8]]
    assert result.picks == [5, 2, 7]
    assert [x.tolist() for x in result.labels()][1] == [1, 1, 0, 0, 1, 1, 1, 1, 0]
    assert np.array_equal(result.sizes, [3, 3, 3])
