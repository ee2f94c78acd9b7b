"""CIFAR-100 by groups, and STL-10, from small files in the published formats."""

import hashlib
import pickle

import numpy as np
import pytest
from mmengine.registry import init_default_scope
from mmpretrain.datasets.categories import CIFAR100_CATEGORIES

from mmcoke.datasets import STL10, CIFAR100Coarse, InMemoryImages, stl10
from mmcoke.datasets.cifar import COARSE_LABEL, FINE, GROUPS

# Coarse labels of the fine labels 0 ... 99, as CIFAR-100's own files pair them.
PUBLISHED = [
    *(4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11),
    *(6, 11, 5, 10, 7, 6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5),
    *(5, 19, 8, 8, 15, 13, 14, 17, 18, 10, 16, 4, 17, 4, 2, 0, 17, 4, 18, 17),
    *(10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16, 12, 9, 13, 15, 13),
    *(16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13),
]


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmcoke')


def test_the_groups_are_20_of_5_as_the_files_pair_them():
    assert list(FINE) == list(CIFAR100_CATEGORIES)
    assert len(GROUPS) == 20 and {len(names) for names in GROUPS.values()} == {5}
    assert COARSE_LABEL.tolist() == PUBLISHED
    assert np.bincount(PUBLISHED).tolist() == [5] * 20


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """CIFAR-100 with one image per class, whose red is its label, and its own sums."""
    folder = tmp_path / CIFAR100Coarse.base_folder
    folder.mkdir()
    pixels = np.zeros((100, 3, 32, 32), np.uint8)
    pixels[:, 0], pixels[:, 2, 0, 1] = np.arange(100)[:, None, None], 7
    batch = dict(data=pixels.reshape(100, -1), fine_labels=list(range(100)))
    for name in ('train', 'test'):
        (folder / name).write_bytes(pickle.dumps(batch))
        md5 = hashlib.md5((folder / name).read_bytes()).hexdigest()
        monkeypatch.setattr(CIFAR100Coarse, f'{name}_list', [[name, md5]])
    return folder


def test_images_keep_their_pixels_and_get_their_groups(cifar):
    source = dict(type='CIFAR100Coarse', data_root=str(cifar.parent), split='train')
    data = InMemoryImages(source)
    assert data.labels.tolist() == PUBLISHED
    assert data.images[:, 5, 5].tolist() == [[label, 0, 0] for label in range(100)]
    assert (data.images[:, 0, 1, 2] == 7).all()  # rows, columns, channels
    assert tuple(GROUPS) == CIFAR100Coarse(str(cifar.parent), 'test').CLASSES


@pytest.mark.parametrize('harm', ['cut off', 'absent'])
def test_a_damaged_cifar_is_refused_in_one_line(cifar, harm):
    path = cifar / 'train'
    path.write_bytes(path.read_bytes()[:-1]) if harm == 'cut off' else path.unlink()
    with pytest.raises(
        ValueError, match=r'no complete CIFAR-100 in .*cifar-100-python\.tar\.gz'
    ) as e:
        CIFAR100Coarse(str(cifar.parent), download=False)
    assert len(str(e.value).splitlines()) == 1


@pytest.fixture
def stl(tmp_path, monkeypatch):
    """STL-10 with few images: of each, the first pixel is red, the one right of it green, the one
    below blue; the last pixel has its number."""
    sizes = dict(train=6, test=4, unlabeled=3)
    monkeypatch.setattr(stl10, 'NUM_IMAGES', sizes)
    folder = tmp_path / 'stl10_binary'
    folder.mkdir()
    for split, num in sizes.items():
        columns_first = np.zeros((num, 3, 96, 96), np.uint8)  # image, channel, column, row
        columns_first[:, 0, 0, 0] = columns_first[:, 1, 1, 0] = columns_first[:, 2, 0, 1] = 255
        columns_first[:, :, 95, 95] = np.arange(num)[:, None]
        columns_first.tofile(folder / f'{split}_X.bin')
        if split != 'unlabeled':
            (10 - np.arange(num, dtype=np.uint8)).tofile(folder / f'{split}_y.bin')
    return folder


def test_stl10_has_its_pixels_in_place_and_labels_from_0(stl):
    data = InMemoryImages(dict(type='STL10', data_root=str(stl.parent), split='train'))
    assert data.images.shape == (6, 96, 96, 3)
    assert data.images[0, 0, 0].tolist() == [255, 0, 0]
    assert data.images[0, 0, 1].tolist() == [0, 255, 0]
    assert data.images[0, 1, 0].tolist() == [0, 0, 255]
    assert data.images[:, 95, 95, 1].tolist() == list(range(6))
    assert data.labels.tolist() == [9, 8, 7, 6, 5, 4]
    assert STL10(str(stl.parent)).CLASSES[9] == 'truck'


def test_splits_of_stl10_are_joined_and_without_labels_where_a_part_has_none(stl):
    root = str(stl.parent)
    both = InMemoryImages(dict(type='STL10', data_root=root, split='train+unlabeled'))
    assert len(both.images) == 9 and both.labels is None
    assert both.images[:, 95, 95, 0].tolist() == [*range(6), *range(3)]
    labelled = InMemoryImages(dict(type='STL10', data_root=root, split='train+test'))
    assert labelled.labels.tolist() == [9, 8, 7, 6, 5, 4, 9, 8, 7, 6]
    records = STL10(root, 'train+unlabeled')
    assert ['gt_label' in records.get_data_info(i) for i in (5, 6)] == [True, False]


def test_stl10_reads_pixels_only_when_they_are_used(stl):
    image = STL10(str(stl.parent)).data_list[0]['img']
    base = image
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    with pytest.raises(ValueError, match='read-only'):
        image[0, 0, 0] = 1


@pytest.mark.parametrize(
    ('name', 'change', 'message'),
    [
        ('train_X.bin', lambda b: b[:-1], r'train_X\.bin has 165,887 bytes instead of 165,888'),
        ('train_X.bin', lambda b: b[: 27648 * 5], r'138,240 bytes instead of 165,888'),
        ('train_y.bin', lambda b: b + b'\1', r'train_y\.bin has 7 bytes instead of 6'),
        ('train_y.bin', lambda b: b'\0' + b[1:], r'labels 0 \.\.\. 9 instead of 1 \.\.\. 10'),
        ('train_y.bin', lambda b: b[:5] + b'\x0b', r'labels 6 \.\.\. 11 instead'),
        ('train_X.bin', None, r'train_X\.bin is absent'),
    ],
)
def test_a_damaged_stl10_is_refused_in_one_line(stl, name, change, message):
    path = stl / name
    path.write_bytes(change(path.read_bytes())) if change else path.unlink()
    with pytest.raises(ValueError, match=rf'{message}.* Unpack stl10_binary\.tar\.gz') as caught:
        STL10(str(stl.parent))
    assert len(str(caught.value).splitlines()) == 1
    STL10(str(stl.parent), 'test+unlabeled')  # the others are not needed


def test_a_split_that_stl10_has_not_is_refused(stl):
    with pytest.raises(ValueError, match=r"'unlabeled', or several .* \['val'\]"):
        STL10(str(stl.parent), 'train+val')
