import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate
from mmengine.registry import init_default_scope
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader

from mmcoke.datasets import ConcatDataset, CustomDataset, InMemoryImages, UnreadableImageError
from mmcoke.models.algorithms.base import sample_indices

PACK = [dict(type='PackInputs')]
LOAD = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(16, 16)), *PACK]


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmcoke')


def indices(dataset, num_workers=0):
    """What reaches the model as ``sample_idx``, through collation and workers."""
    loader = DataLoader(dataset, 4, num_workers=num_workers, collate_fn=default_collate)
    batches = [sample_indices(batch['data_samples'], torch.device('cpu')) for batch in loader]
    return torch.cat(batches).tolist()


def test_digits_are_split_70_to_30_stratified_and_complete():
    train, test, everything = (InMemoryImages('digits', s) for s in ('train', 'test', 'all'))
    assert (len(train), len(test), len(everything)) == (1257, 540, 1797)
    together = np.concatenate([train.images, test.images]).reshape(1797, -1)
    original = np.rint(load_digits().data * 255 / 16).astype(np.uint8)
    assert np.array_equal(np.unique(together, axis=0), np.unique(original, axis=0))
    share = np.bincount(train.labels) / np.bincount(everything.labels)
    assert np.abs(share - 0.7).max() < 0.01


def test_digits_keep_their_labels():
    digits = InMemoryImages('digits', 'all', pipeline=PACK)
    record = digits[5]
    assert record['inputs'].shape == (1, 8, 8)
    assert record['data_samples'].gt_label.item() == load_digits().target[5]
    assert record['data_samples'].sample_idx == 5


@pytest.mark.parametrize('shape', [(12, 9, 7), (12, 9, 7, 3)])
@pytest.mark.parametrize('with_label', [True, False])
def test_arrays_from_a_file(tmp_path, shape, with_label):
    x = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    y = np.arange(12) % 2
    np.savez(tmp_path / 'a.npz', x=x, **(dict(y=y) if with_label else {}))
    dataset = InMemoryImages(str(tmp_path / 'a.npz'), pipeline=PACK)
    image = dataset[3]['inputs'].permute(1, 2, 0).numpy().reshape(shape[1:])
    assert np.array_equal(image, x[3])
    assert ('gt_label' in dataset[3]['data_samples']) == with_label
    parts = [InMemoryImages(str(tmp_path / 'a.npz'), split) for split in ('train', 'test')]
    assert [len(part) for part in parts] == [8, 4]


def test_transforms_in_place_do_not_change_the_data():
    def blacken(record):
        record['img'][:] = 0
        return record

    digits = InMemoryImages('digits', pipeline=[blacken, *PACK])
    assert digits[0]['inputs'].sum() == 0
    assert digits.images[0].sum() > 0


@pytest.mark.parametrize(
    ('arrays', 'message'),
    [
        (dict(y=np.arange(3)), r'no x'),
        (dict(x=np.zeros((3, 4, 4))), r'uint8 .* float64 \(3, 4, 4\)'),
        (dict(x=np.zeros((3, 4, 4, 4), np.uint8)), r'\(3, 4, 4, 4\)'),
        (dict(x=np.zeros((0, 4, 4), np.uint8)), r'n > 0'),
        (dict(x=np.zeros((3, 4, 4), np.uint8), y=np.arange(2)), r'one integer per image \(3,\)'),
        (dict(x=np.zeros((3, 4, 4), np.uint8), y=np.ones(3)), r'one integer per image'),
    ],
)
def test_other_arrays_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / 'a.npz', **arrays)
    with pytest.raises(ValueError, match=message):
        InMemoryImages(str(tmp_path / 'a.npz'))


@pytest.mark.parametrize('content', [b'', b'no archive'])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / 'a.npz').write_bytes(content)
    with pytest.raises(ValueError, match=r'a\.npz is no \.npz file, or damaged'):
        InMemoryImages(str(tmp_path / 'a.npz'))
    np.save(tmp_path / 'a.npy', np.zeros((2, 2, 2), np.uint8))
    with pytest.raises(ValueError, match=r'a\.npy is no \.npz file'):
        InMemoryImages(str(tmp_path / 'a.npy'))


def test_a_missing_source_or_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match='no file'):
        InMemoryImages(str(tmp_path / 'none.npz'))
    with pytest.raises(ValueError, match='split'):
        InMemoryImages('digits', 'val')


@pytest.mark.parametrize('num_workers', [0, 2])
def test_sample_idx_reaches_the_model_from_a_plain_folder(image_folder, num_workers):
    dataset = CustomDataset(data_root=str(image_folder), with_label=False, pipeline=LOAD)
    assert indices(dataset, num_workers) == list(range(9))


def test_sample_idx_counts_through_all_parts_of_a_concatenation(image_folder):
    folder = dict(data_root=str(image_folder), with_label=False, pipeline=LOAD)
    parts = [dict(folder, type='CustomDataset'), dict(folder, type='CustomDataset')]
    assert indices(ConcatDataset(parts)) == list(range(18))


def test_a_missing_folder_is_named_with_the_remedy(tmp_path):
    with pytest.raises(ValueError, match=r'none.*data_root='):
        CustomDataset(data_root=str(tmp_path / 'none'), with_label=False)


def test_an_empty_folder_is_named_with_the_extensions(tmp_path):
    (tmp_path / 'notes.txt').write_text('no image')
    with pytest.raises(ValueError, match=r'no image in .*\.jpg'):
        CustomDataset(data_root=str(tmp_path), with_label=False)


@pytest.mark.parametrize('content', [b'', b'not an image', b'\xff\xd8\xff\xe0 broken'])
@pytest.mark.parametrize('num_workers', [0, 1])
def test_an_unreadable_image_is_named_not_buried_in_a_traceback(image_folder, content, num_workers):
    (image_folder / 'part0/4.jpg').write_bytes(content)
    dataset = CustomDataset(data_root=str(image_folder), with_label=False, pipeline=LOAD)
    with pytest.raises(UnreadableImageError) as error:
        indices(dataset, num_workers)
    message = str(error.value)
    assert message.startswith('Cannot read the image') and 'part0/4.jpg' in message
    assert 'ignore_empty=True' in message and 'Traceback' not in message


def test_unreadable_images_can_be_skipped_with_a_warning(image_folder, caplog):
    (image_folder / 'part0/4.jpg').write_bytes(b'')
    load = [dict(type='LoadImageFromFile', ignore_empty=True), *LOAD[1:]]
    dataset = CustomDataset(data_root=str(image_folder), with_label=False, pipeline=load)
    with caplog.at_level('WARNING', logger='current'):
        seen = indices(dataset)
    assert len(seen) == 9 and 2 not in seen  # sorted: part0/0, part0/2, part0/4
