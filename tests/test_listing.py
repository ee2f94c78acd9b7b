"""One list of the images in a folder, and of those in list files, for every tool."""

import os
import random
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mmengine import fileio
from mmengine.registry import init_default_scope
from mmpretrain.datasets import CustomDataset as Upstream
from PIL import Image
from torch import nn

from mmcoke.datasets import CustomDataset, folder, listing
from mmcoke.datasets.check import check_data
from mmcoke.datasets.label_list import write_label_list
from mmcoke.datasets.listing import list_images
from mmcoke.features.extractor import image_files
from mmcoke.features.plain_images import folder_images
from mmcoke.messages import shown

PIXELS = np.random.default_rng(0).integers(0, 255, (12, 10, 3), dtype=np.uint8)
NETWORK = SimpleNamespace(takes_bgr=False, backbone=nn.Conv2d(3, 8, 1))


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmcoke')
    folder.say.cache_clear()


def fill(root, *names):
    """Images of these names, and other files where the ending is that of none."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in ('.jpg', '.png', '.webp', '.tiff'):
            Image.fromarray(PIXELS).save(path)
        else:
            path.write_text('no image')
    return root


def seen_by_all(root):
    """The images that each tool sees, which must be the same; relative, in order of names."""
    plain = CustomDataset(data_root=str(root), with_label=False, pipeline=[])
    seen = dict(
        training=[plain.get_data_info(i)['img_path'] for i in range(len(plain))],
        extractor_and_gallery=image_files(root),
        check=check_data('folder', root, decode=False).images,
    )
    extraction = folder_images(NETWORK, root)
    seen['extraction'] = sorted(extraction.get_data_info(i)['img_path'] for i in range(len(plain)))
    assert len(extraction) == len(plain)
    seen = {tool: [os.path.relpath(path, root) for path in paths] for tool, paths in seen.items()}
    first = seen.pop('training')
    assert all(paths == first for paths in seen.values())
    return first


SERVICE = ('@eaDir', '.ipynb_checkpoints', '__MACOSX', '#recycle', '$RECYCLE.BIN', 'lost+found')


@pytest.mark.parametrize('name', [*SERVICE, 'System Volume Information', 'Thumbs', '.thumbnails'])
@pytest.mark.parametrize('depth', ['', 'a/', 'a/b/'])
def test_service_and_hidden_folders_are_no_images_and_no_classes(tmp_path, name, depth):
    fill(tmp_path, 'a/0.jpg', 'a/b/1.jpg', f'{depth}{name}/x.jpg/S.jpg', f'{depth}{name}/2.jpg')
    (tmp_path / name / 'empty').mkdir(parents=True, exist_ok=True)
    assert seen_by_all(tmp_path) == ['a/0.jpg', 'a/b/1.jpg']
    found = list_images(tmp_path)
    kind = 'hidden' if name.startswith('.') else 'service'
    assert found.note() == f'Passed over in {tmp_path}: 2 in {name} ({kind} folder).'
    assert found.classes == ['a'] and found.empty == []


def test_photos_beside_a_service_folder_have_no_labels(tmp_path):
    fill(tmp_path, *(f'{i}.jpg' for i in range(9)), '@eaDir/1.jpg/SYNOFILE_THUMB_M.jpg')
    assert len(seen_by_all(tmp_path)) == 9
    assert 'gt_label' not in folder_images(NETWORK, tmp_path).get_data_info(0)


def test_images_beside_class_folders_take_the_labels_from_all(tmp_path):
    fill(tmp_path, '0.jpg', '1.jpg', 'album/2.jpg', 'b/3.jpg')
    (tmp_path / 'empty/below').mkdir(parents=True)
    assert seen_by_all(tmp_path) == ['0.jpg', '1.jpg', 'album/2.jpg', 'b/3.jpg']
    assert 'gt_label' not in folder_images(NETWORK, tmp_path).get_data_info(3)
    (tmp_path / '0.jpg').unlink()
    (tmp_path / '1.jpg').unlink()
    labelled = folder_images(NETWORK, tmp_path)
    assert [labelled.get_data_info(i)['gt_label'] for i in range(2)] == [0, 1]
    assert labelled.metainfo['classes'] == ('album', 'b')


def test_a_root_may_be_hidden_or_below_a_hidden_folder(tmp_path):
    root = fill(tmp_path / '.cache/@eaDir', 'a/0.jpg')
    assert seen_by_all(root) == ['a/0.jpg']


def test_hidden_files_are_no_images(tmp_path):
    fill(tmp_path, '0.jpg', '._0.jpg', '.DS_Store', 'a/._1.jpg', 'a/1.jpg')
    assert seen_by_all(tmp_path) == ['0.jpg', 'a/1.jpg']
    assert '2 .jpg (hidden file), 1 without ending (hidden file)' in list_images(tmp_path).note()


def test_a_line_says_once_what_was_passed_over_and_why(tmp_path, monkeypatch):
    fill(tmp_path, 'a/0.jpg', 'a/1.PNG.txt', 'b.txt', 'c.heic', 'Thumbs.db', '@eaDir/0.jpg')
    lines = []
    monkeypatch.setattr(folder, 'print_log', lambda line, **_: lines.append(line))
    for _ in range(2):
        CustomDataset(data_root=str(tmp_path), with_label=False)
    assert lines == [
        f'Passed over in {tmp_path}: 2 .txt (no image), 1 .db (no image), '
        '1 .heic (not decoded), 1 in @eaDir (service folder).'
    ]
    monkeypatch.setattr(folder, 'is_main_process', lambda: False)
    folder.say.cache_clear()
    CustomDataset(data_root=str(tmp_path), with_label=False)
    assert len(lines) == 1
    (report,) = [f for f in check_data('folder', tmp_path, decode=False).facts if 'Passed' in f]
    assert f'{report}.' == lines[0]


def test_many_kinds_are_cut_short(tmp_path):
    fill(tmp_path, '0.jpg', *(f'0.x{i}' for i in range(12)))
    assert list_images(tmp_path).note().endswith('1 .x5 (no image), and 4 kinds more.')


def test_types_that_can_be_decoded_are_seen_in_any_case(tmp_path):
    fill(tmp_path, 'a.webp', 'b.tiff', 'c.jpg')
    (tmp_path / 'c.jpg').rename(tmp_path / 'c.JFIF')
    assert seen_by_all(tmp_path) == ['a.webp', 'b.tiff', 'c.JFIF']


# ---- order


def test_the_order_is_that_of_mmpretrain_with_and_without_labels(tmp_path):
    """'-', ' ' and '.' come before '/'."""
    names = [f'{c}/{n}' for c in ('a', 'a-b', 'a b', 'B') for n in ('1', '10', '2', 'x/0', 'x.y/0')]
    fill(tmp_path, *(f'{name}.jpg' for name in names))
    for with_label in (True, False):
        options = dict(data_root=str(tmp_path), with_label=with_label, pipeline=[])
        ours, theirs = CustomDataset(**options), Upstream(**options)
        assert [dict(row) for row in ours] == [dict(row) for row in theirs]
        assert ours.metainfo == theirs.metainfo


def test_the_order_does_not_depend_on_the_file_system(tmp_path, monkeypatch):
    fill(tmp_path, *(f'{c}/{i}.jpg' for c in 'abc' for i in range(4)))
    for name in ('l2', 'l1'):
        (tmp_path / name).symlink_to(tmp_path / 'out' if name == 'none' else tmp_path.parent)
    outside = fill(tmp_path.parent / f'{tmp_path.name}-outside', 'x/0.jpg', 'y/1.jpg')
    (tmp_path / 'm2').symlink_to(outside)
    (tmp_path / 'm1').symlink_to(outside / 'x')
    expected = list_images(tmp_path)
    assert expected.images[-2:] == ['m1/0.jpg', 'm2/y/1.jpg']
    scandir = os.scandir

    class Shuffled(list):
        __enter__ = lambda self: self  # noqa: E731
        __exit__ = lambda self, *_: None  # noqa: E731

    def shuffled(path):
        entries = list(scandir(path))
        random.shuffle(entries)
        return Shuffled(entries)

    monkeypatch.setattr(listing.os, 'scandir', shuffled)
    for _ in range(5):
        assert list_images(tmp_path) == expected


# ---- links


def test_circles_of_links_end_and_each_folder_counts_once(tmp_path):
    root = fill(tmp_path / 'root', 'a/0.jpg', 'b/c/1.jpg', '2.jpg')
    (root / 'a/loop').symlink_to(root)
    (root / 'b/c/up').symlink_to('../..')
    (root / 'around').symlink_to(tmp_path)
    (root / 'AA').symlink_to(root / 'a')  # sorted ahead of it
    (root / 'self').symlink_to('self')
    assert seen_by_all(root) == ['2.jpg', 'a/0.jpg', 'b/c/1.jpg']
    assert '4 links (circles, or folders listed already)' in list_images(root).note()


def test_links_to_images_and_folders_elsewhere_are_followed_and_broken_ones_passed_over(tmp_path):
    store = fill(tmp_path / 'store', 'cats/0.jpg', '1.jpg')
    root = fill(tmp_path / 'root', '.hidden/x/3.jpg')
    (root / 'cats').symlink_to(store / 'cats')
    (root / 'one.jpg').symlink_to(store / '1.jpg')
    (root / 'gone.jpg').symlink_to(store / 'gone.jpg')
    (root / 'x').symlink_to(root / '.hidden/x')
    assert seen_by_all(root) == ['cats/0.jpg', 'one.jpg', 'x/3.jpg']
    assert '1 .jpg (broken link)' in list_images(root).note()


# ---- classes


def test_an_empty_folder_is_no_class_unless_the_user_names_it(tmp_path):
    fill(tmp_path, 'a/0.jpg', 'c/1.jpg')
    (tmp_path / 'b').mkdir()

    def labels(**options):
        dataset = CustomDataset(data_root=str(tmp_path), pipeline=[], **options)
        return [dataset.get_data_info(i)['gt_label'] for i in range(2)], dataset.metainfo['classes']

    assert labels() == ([0, 1], ('a', 'c'))
    assert labels(metainfo=dict(classes=('A', 'C'))) == ([0, 1], ('A', 'C'))
    assert labels(metainfo=dict(classes=('A', 'B', 'C'))) == ([0, 2], ('A', 'B', 'C'))
    with pytest.raises(ValueError, match=r'metainfo names 4 classes, but .* images in 2 folders'):
        labels(metainfo=dict(classes='abcd'))


def test_labels_that_are_asked_for_need_class_folders(tmp_path, monkeypatch):
    fill(tmp_path, '0.jpg')
    with pytest.raises(ValueError, match=r'No image in .* class folder.*with_label=False'):
        CustomDataset(data_root=str(tmp_path))
    fill(tmp_path, 'a/1.jpg')
    lines = []
    monkeypatch.setattr(folder, 'print_log', lambda line, **_: lines.append(line))
    assert len(CustomDataset(data_root=str(tmp_path))) == 1
    assert '1 images (beside the class folders, so without a label)' in lines[0]


def test_a_folder_without_images_says_what_is_there(tmp_path):
    fill(tmp_path, 'a.heic', '.hidden/0.jpg')
    message = r'no image in .*: 1 \.heic \(not decoded\), 1 in \.hidden \(hidden folder\)\.$'
    with pytest.raises(ValueError, match=message):
        CustomDataset(data_root=str(tmp_path), with_label=False)


def test_own_endings_and_prefixes_are_kept(tmp_path):
    fill(tmp_path, 'images/a/0.jpg', 'images/a/1.img', 'other/2.jpg')
    options = dict(data_root=str(tmp_path), data_prefix='images', with_label=False, pipeline=[])
    (record,) = CustomDataset(**options)
    assert record['img_path'] == str(tmp_path / 'images/a/0.jpg')
    (record,) = CustomDataset(**options, extensions=('.IMG',))
    assert record['img_path'] == str(tmp_path / 'images/a/1.img')


class Shelf(fileio.LocalBackend):
    """A backend of its own, which has some files."""

    def list_dir_or_file(self, dir_path, **_):
        return iter(('a/0.jpg', 'a/@eaDir/0.jpg', 'b/1.png', 'b/readme.txt'))


def test_an_address_is_listed_by_its_backend():
    fileio.register_backend('shelf', Shelf, prefixes='shelf', force=True)
    dataset = CustomDataset(data_root='shelf://x', pipeline=[])
    assert [(os.path.normpath(r['img_path']), r['gt_label']) for r in dataset] == [
        ('shelf:/x/a/0.jpg', 0),
        ('shelf:/x/b/1.png', 1),
    ]


# ---- list files

LINES = ('a/0.jpg', 'a/one more.jpg', 'b/2.jpg')
LABELS = (0, 0, 1)
LABELLED = [f'{line} {label}' for line, label in zip(LINES, LABELS, strict=True)]
WRITTEN = dict(
    plain='\n'.join,
    blank_end=lambda lines: '\n'.join(lines) + '\n\n  \n',
    crlf=lambda lines: '\r\n'.join(lines) + '\r\n',
    bom=lambda lines: '\ufeff' + '\n'.join(lines) + '\n',
    blank_between=lambda lines: '\n\n'.join(lines),
)


@pytest.fixture
def listed(tmp_path):
    def listed(content, **options):
        content = content if isinstance(content, bytes) else content.encode()
        (tmp_path / 'list.txt').write_bytes(content)
        return list(
            CustomDataset(data_root=str(tmp_path), ann_file='list.txt', pipeline=[], **options)
        )

    return listed


@pytest.mark.parametrize('kind', WRITTEN)
def test_list_files_are_read_as_any_system_writes_them(listed, tmp_path, kind):
    write, paths = WRITTEN[kind], [str(tmp_path / name) for name in LINES]
    for lines in (LINES, LABELLED):  # labels that are not asked for are dropped
        rows = listed(write(lines), with_label=False)
        assert [row['img_path'] for row in rows] == paths
        assert not any('gt_label' in row for row in rows)
    for with_label in (True, None):
        rows = listed(write(LABELLED), with_label=with_label)
        assert [(r['img_path'], r['gt_label']) for r in rows] == list(
            zip(paths, LABELS, strict=True)
        )
    assert 'gt_label' not in listed(write(LINES), with_label=None)[0]


def test_utf_16_is_read(listed, tmp_path):
    rows = listed('\r\n'.join(LABELLED).encode('utf-16'))
    assert [row['gt_label'] for row in rows] == [0, 0, 1]


def test_a_name_that_ends_in_a_number_is_no_label(listed, tmp_path):
    (row,) = listed('photo 12', with_label=False)
    assert row['img_path'] == str(tmp_path / 'photo 12')


def test_a_line_without_its_label_is_named(listed):
    with pytest.raises(ValueError, match=r"Line 4 of .*list.txt has no integer label: 'b/2.jpg'"):
        listed('a/0.jpg 0\n\n\nb/2.jpg\n')


# ---- names that are not UTF-8


@pytest.fixture
def latin(tmp_path):
    """A folder per class with names in Latin-1."""
    root = tmp_path / 'data/train'
    for name in (b'caf\xe9/0.jpg', b'caf\xe9/\xfc.jpg', b'x/1.jpg'):
        path = os.fsdecode(os.path.join(os.fsencode(root), name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Image.fromarray(PIXELS).save(path)
    return root


def test_names_that_are_not_utf8_are_seen_by_all(latin):
    assert [shown(name) for name in seen_by_all(latin)] == [
        r'caf\xe9/0.jpg',
        r'caf\xe9/\xfc.jpg',
        'x/1.jpg',
    ]
    load = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
    dataset = CustomDataset(data_root=str(latin), pipeline=load)
    assert [row['data_samples'].gt_label.item() for row in dataset] == [0, 0, 1]


def test_they_survive_a_list_file(latin):
    path, num = write_label_list(latin.parent, 100)
    assert num == 3
    options = dict(data_root=str(latin.parent), data_prefix='train', pipeline=[])
    listed = CustomDataset(**options, ann_file=f'meta/{path.name}')
    assert [dict(row) for row in listed] == [dict(row) for row in CustomDataset(**options)]


def test_they_are_checked_and_shown_escaped(latin, tmp_path):
    report = check_data('folder', latin, notes=tmp_path / 'notes')
    assert not report.problems
    assert '3 images can be decoded' in report.facts
    for image in report.images:
        open(image, 'wb').close()
    (problem,) = check_data('folder', latin, notes=tmp_path / 'notes').problems
    assert r'caf\xe9/\xfc.jpg: the file is empty' in problem.what
    text = (tmp_path / 'notes/folder_unreadable.txt').read_text(encoding='utf-8')
    assert r'caf\xe9/\xfc.jpg: the file is empty' in text


def test_a_list_of_files_takes_little_more_memory_than_its_records(tmp_path):
    """As dicts at once they would take five times as much: GB for millions."""
    path = tmp_path / 'files.txt'
    path.write_text(''.join(f'n{i:08d}/{i:08d}.JPEG {i % 9}\n' for i in range(20_000)))
    tracemalloc.start()
    dataset = CustomDataset(data_root='a', ann_file=str(path), pipeline=[])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(dataset) == 20_000
    assert dataset.get_data_info(19_999)['gt_label'] == 19_999 % 9
    # The list itself, and spare room in what grows.
    size = dataset.data_bytes.nbytes + dataset.data_address.nbytes
    assert peak < 1.3 * (size + path.stat().st_size) + 2e5


def test_a_subclass_may_still_change_the_list(tmp_path):
    (tmp_path / 'files.txt').write_text('a.jpg\nb.jpg\n')

    class Reversed(CustomDataset):
        def load_data_list(self):
            return super().load_data_list()[::-1]

    def names(kind, **options):
        dataset = kind(
            data_root=str(tmp_path), ann_file='files.txt', with_label=False, pipeline=[], **options
        )
        return [Path(dataset.get_data_info(i)['img_path']).name for i in range(len(dataset))]

    assert names(Reversed) == ['b.jpg', 'a.jpg']
    assert names(CustomDataset, indices=[1]) == ['b.jpg']
    assert names(CustomDataset, serialize_data=False) == ['a.jpg', 'b.jpg']
