"""Whole batches are what the records one by one would be."""

import copy

import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate
from mmengine.registry import FUNCTIONS, init_default_scope
from torch.utils.data import ConcatDataset, DataLoader

from mmcoke.datasets import ImageBatch, InMemoryImages, unlabelled_batch
from mmcoke.datasets.seeded_pipeline import SeededPipeline

RESIZE = [dict(type='Resize', scale=(16, 16)), dict(type='PackInputs')]
FLIP = [dict(type='RandomFlip', prob=0.5), dict(type='PackInputs')]
COLOUR = [dict(type='ColorJitter', brightness=0.5), dict(type='PackInputs')]


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmcoke')


@pytest.fixture
def colour(tmp_path):
    x = np.random.default_rng(0).integers(0, 255, (12, 9, 7, 3), dtype=np.uint8)
    np.savez(tmp_path / 'a.npz', x=x, y=np.arange(12) % 2)
    return str(tmp_path / 'a.npz')


def whole_batches(dataset, **kwargs):
    loader = DataLoader(dataset, 4, collate_fn=unlabelled_batch, **kwargs)
    return list(loader)


def one_by_one(dataset):
    """The same, by another way: records, collated by mmengine."""
    batches = []
    for first in range(0, len(dataset), 4):
        samples = [dataset[i] for i in range(first, min(first + 4, len(dataset)))]
        batch = default_collate(samples)
        idx = torch.tensor([sample.sample_idx for sample in batch['data_samples']])
        batches.append((batch['inputs'], idx))
    return batches


@pytest.mark.parametrize('source', ['digits', 'colour'])
@pytest.mark.parametrize('num_workers', [0, 1])
def test_whole_batches_are_the_records(source, num_workers, request):
    source = source if source == 'digits' else request.getfixturevalue('colour')
    dataset = InMemoryImages(source, 'test', pipeline=RESIZE)
    assert isinstance(dataset.__getitems__([2, 0]), ImageBatch)
    batches = whole_batches(dataset, num_workers=num_workers)
    expected = one_by_one(InMemoryImages(source, 'test', pipeline=RESIZE))
    for batch, (images, idx) in zip(batches, expected, strict=True):
        assert set(batch) == {'inputs', 'sample_idx'}
        assert torch.equal(batch['inputs'], images) and batch['inputs'].dtype == images.dtype
        assert torch.equal(batch['sample_idx'], idx)


def test_other_collate_functions_get_records(colour):
    dataset = InMemoryImages(colour, pipeline=RESIZE)
    batch = default_collate(dataset.__getitems__([5, 1]))
    assert [sample.sample_idx for sample in batch['data_samples']] == [5, 1]
    assert [sample.gt_label.item() for sample in batch['data_samples']] == [1, 1]
    assert torch.equal(batch['inputs'], torch.stack([dataset[i]['inputs'] for i in (5, 1)]))


def double(record):
    return dict(record, img=record['img'] * 2)


@pytest.mark.parametrize(
    'pipeline', [FLIP, COLOUR, [double, *RESIZE]], ids=['flip', 'colour', 'own']
)
def test_what_differs_every_time_is_done_one_by_one(pipeline, colour):
    dataset = InMemoryImages(colour, pipeline=pipeline)
    assert isinstance(dataset.__getitems__([0, 1]), list)
    dataset.pipeline = SeededPipeline(dataset.pipeline, 0, torch.zeros((), dtype=torch.int64), 0)
    assert isinstance(dataset.__getitems__([0, 1]), list)
    if pipeline is FLIP:
        images = whole_batches(InMemoryImages(colour, pipeline=FLIP))
        assert sum(map(len, (batch['inputs'] for batch in images))) == 12


def test_looking_for_random_numbers_draws_none(colour):
    torch.manual_seed(0), np.random.seed(0)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(0), np.random.seed(0)
    InMemoryImages(colour, pipeline=FLIP)._prepared()
    assert (torch.rand(1), np.random.rand()) == expected


def test_another_pipeline_makes_other_batches(colour):
    dataset = InMemoryImages(colour, pipeline=RESIZE)
    assert dataset.__getitems__([0]).images.shape == (1, 3, 16, 16)
    other = copy.copy(dataset)
    other.pipeline = InMemoryImages(colour, pipeline=RESIZE[1:]).pipeline
    assert other.__getitems__([0]).images.shape == (1, 3, 9, 7)
    assert dataset.__getitems__([0]).images.shape == (1, 3, 16, 16)


def test_a_batch_is_a_copy(colour):
    dataset = InMemoryImages(colour, pipeline=RESIZE)
    before = dataset.__getitems__([3]).images.clone()
    dataset.__getitems__([3]).images.zero_()
    assert torch.equal(dataset.__getitems__([3]).images, before)


def test_part_of_the_images_keeps_its_indices(colour):
    dataset = InMemoryImages(colour, pipeline=RESIZE, indices=[7, 2, 5])
    batch = dataset.__getitems__([2, 0])
    assert batch.sample_idx.tolist() == [2, 0]
    assert torch.equal(batch.images[1], dataset[0]['inputs'])


def test_wrapped_data_sets_are_collated_one_by_one(colour):
    both = ConcatDataset([InMemoryImages(colour, pipeline=RESIZE) for _ in range(2)])
    batch = whole_batches(both)[0]
    assert set(batch) == {'inputs', 'sample_idx'} and batch['sample_idx'].tolist() == [0, 1, 2, 3]


def test_views_are_stacked_one_by_one():
    class Sample:
        sample_idx = 4

    views = [torch.zeros(3, 8, 8), torch.ones(3, 4, 4)]
    batch = unlabelled_batch([dict(inputs=views, data_samples=Sample())] * 2)
    assert [view.shape for view in batch['inputs']] == [(2, 3, 8, 8), (2, 3, 4, 4)]
    assert batch['sample_idx'].tolist() == [4, 4]


def test_samples_without_an_index_stay_as_they_are(colour):
    dataset = InMemoryImages(colour, pipeline=[dict(type='PackInputs', meta_keys=())])
    batch = unlabelled_batch([dataset[0], dataset[1]])
    assert set(batch) == {'inputs', 'data_samples'}


def test_workers_are_refused_for_images_on_a_device(colour):
    dataset = InMemoryImages(colour, pipeline=RESIZE, device='meta')
    with pytest.raises(ValueError, match='num_workers=0'):
        whole_batches(dataset, num_workers=1)


def test_configs_can_name_the_function():
    assert FUNCTIONS.get('mmcoke.unlabelled_batch') is unlabelled_batch
