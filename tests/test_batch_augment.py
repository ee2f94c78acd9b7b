"""The preprocessor that augments whole batches."""

import pytest
import torch
from conftest import tiny
from made_up_photos import photos
from mmengine.registry import init_default_scope
from mmpretrain.structures import DataSample

from mmcoke.augmentation import View, build_operation, view_keys
from mmcoke.engine.launch import train
from mmcoke.models import BatchAugmentPreprocessor
from mmcoke.registry import MODELS

MEAN, STD = [123.0, 116.0, 103.0], [58.0, 57.0, 56.0]
VIEW = [
    dict(type='RandomResizedCrop', size=16, scale=(0.3, 1.0)),
    dict(type='RandomHorizontalFlip'),
    dict(type='ColorJitter', brightness=0.4, hue=0.1, p=0.5),
]
NO_CHANGE = [dict(type='RandomHorizontalFlip', p=0.0)]


def preprocessor(views, **kwargs):
    init_default_scope('mmcoke')
    made = MODELS.build(dict(type='BatchAugmentPreprocessor', views=views, **kwargs))
    made.set_epoch(3, 5)
    return made


def batch(images, **kwargs):
    return dict(inputs=images, sample_idx=torch.arange(len(images)), **kwargs)


def samples(numbers):
    return [DataSample(metainfo=dict(sample_idx=number)) for number in numbers]


def test_views_are_those_of_seed_epoch_sample_and_view_normalized():
    images = photos(6)
    data = dict(inputs=images, sample_idx=torch.tensor([4, 0, 9, 2, 3, 1]))
    found = preprocessor([VIEW, VIEW], mean=MEAN, std=STD)(data, True)['inputs']
    view = View(map(build_operation, VIEW))
    keys = view_keys(torch.tensor(3), torch.tensor(5), data['sample_idx'], 2)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (MEAN, STD))
    for made, key in zip(found, keys, strict=True):
        assert torch.allclose(made, (view(images / 255, key) * 255 - mean) / std, atol=1e-5)
    assert not torch.allclose(*found)


def test_indices_come_as_a_tensor_or_in_data_samples_and_are_handed_on():
    images, numbers = photos(4), [7, 2, 5, 11]
    augment = preprocessor([VIEW])
    tensor, both = torch.tensor(numbers), samples(numbers)
    as_tensor = augment(dict(inputs=images, sample_idx=tensor), True)
    in_samples = augment(dict(inputs=images, data_samples=both), True)
    assert torch.equal(as_tensor['inputs'][0], in_samples['inputs'][0])
    assert set(as_tensor) == {'inputs', 'sample_idx'}
    assert torch.equal(as_tensor['sample_idx'], tensor)
    assert set(in_samples) == {'inputs', 'data_samples'}
    assert [x.sample_idx for x in in_samples['data_samples']] == numbers
    other = samples([0, 0, 0, 0])  # the tensor is what counts
    again = augment(dict(inputs=images, data_samples=other, sample_idx=tensor), True)
    assert torch.equal(again['inputs'][0], as_tensor['inputs'][0])


def test_images_without_indices_are_refused():
    for data_samples in (None, [DataSample()] * 2):
        with pytest.raises(ValueError, match='have no sample_idx'):
            preprocessor([VIEW])(dict(inputs=photos(2), data_samples=data_samples), True)


def test_an_epoch_has_other_views_and_the_same_again():
    augment, data = preprocessor([VIEW]), batch(photos(4))
    one = augment(data, True)['inputs'][0]
    augment.set_epoch(3, 6)
    other = augment(data, True)['inputs'][0]
    assert (one != other).flatten(1).any(1).all()
    augment.set_epoch(3, 5)
    assert torch.equal(augment(data, True)['inputs'][0], one)
    assert not {'seed', 'epoch', 'scale', 'shift'} & set(augment.state_dict())


@pytest.fixture
def said(monkeypatch):
    """What the log gets."""
    texts = []
    place = 'mmcoke.models.data_preprocessors.batch_augment.print_log'
    monkeypatch.setattr(place, lambda text, *args: texts.append(text))
    return texts


def test_without_an_epoch_a_warning_names_the_hook(said):
    init_default_scope('mmcoke')
    augment = MODELS.build(dict(type='BatchAugmentPreprocessor', views=[VIEW]))
    for _ in range(2):
        augment(batch(photos(2)), True)
    assert len(said) == 1
    assert "dict(type='SampleSeedHook')" in said[0]


def test_each_view_may_have_images_of_its_own():
    large, small = photos(3), photos(3, 16, seed=5)
    augment = preprocessor([NO_CHANGE, NO_CHANGE])
    data = dict(inputs=[large, small], sample_idx=torch.arange(3))
    one, other = augment(data, True)['inputs']
    assert torch.allclose(one, large.float(), atol=1e-4)
    assert torch.allclose(other, small.float(), atol=1e-4)
    with pytest.raises(ValueError, match=r'makes 3 views .* for 2'):
        augment(data | dict(inputs=[large] * 3), True)


@pytest.mark.parametrize('turn', ['to_rgb', 'bgr_to_rgb', 'rgb_to_bgr'])
def test_channels_are_turned_before_augmentation(turn):
    images, gray = photos(4), [dict(type='RandomGrayscale', p=1.0)]
    found = preprocessor([gray], **{turn: True})(batch(images.flip(1)), True)['inputs'][0]
    plain = preprocessor([gray])(batch(images), True)['inputs'][0]
    assert torch.allclose(found, plain, atol=1e-3)
    turned = preprocessor([NO_CHANGE], mean=MEAN, std=STD, **{turn: True})
    plain = preprocessor([NO_CHANGE], mean=MEAN, std=STD)
    one, other = turned(batch(images.flip(1)), True), plain(batch(images), True)
    assert torch.allclose(one['inputs'][0], other['inputs'][0], atol=1e-5)


def test_memory_may_lie_pixel_by_pixel():
    data = batch(photos(4))
    plain, last = (preprocessor([VIEW], channels_last=x)(data, True) for x in (False, True))
    assert plain['inputs'][0].is_contiguous()
    assert last['inputs'][0].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(plain['inputs'][0], last['inputs'][0])


@pytest.mark.parametrize('inputs', ['uint8', 'float', 'channels_last', 'gray'])
def test_images_of_any_kind_are_left_as_they_are(inputs):
    images = photos(4)
    change = dict(
        uint8=lambda x: x,
        float=lambda x: x.float(),
        channels_last=lambda x: x.contiguous(memory_format=torch.channels_last),
        gray=lambda x: x[:, :1],
    )
    given = change[inputs](images)
    before = given.clone()
    found = preprocessor([VIEW], mean=[100.0], std=[50.0])(batch(given), True)['inputs'][0]
    assert torch.equal(given, before)
    assert found.dtype == torch.float32
    if inputs != 'gray':
        plain = preprocessor([VIEW], mean=[100.0], std=[50.0])(batch(images), True)['inputs'][0]
        assert torch.equal(found, plain)


def test_autocast_does_not_reach_the_images():
    augment, data = preprocessor([VIEW], mean=MEAN, std=STD), batch(photos(4))
    plain = augment(data, True)['inputs'][0]
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = augment(data, True)['inputs'][0]
    assert torch.equal(found, plain)


def test_outside_of_training_images_are_only_normalized():
    images, mean = photos(4), torch.tensor(MEAN).view(3, 1, 1)
    found = preprocessor([VIEW], mean=MEAN, std=STD)(batch(images), False)
    expected = (images - mean) / torch.tensor(STD).view(3, 1, 1)
    assert torch.allclose(found['inputs'], expected)


def test_what_we_do_not_have_is_kornias_and_the_log_says_so(said):
    rotation = [*VIEW, dict(type='RandomRotation', degrees=10.0, p=1.0)]
    augment = preprocessor([rotation, rotation])
    assert len(said) == 1
    assert said[0].startswith("RandomRotation: kornia's")
    torch.manual_seed(0)
    one = augment(batch(photos(4)), True)['inputs']
    torch.manual_seed(0)
    assert torch.equal(augment(batch(photos(4)), True)['inputs'][1], one[1])
    assert not torch.equal(augment(batch(photos(4)), True)['inputs'][1], one[1])


WRONG = {
    'a typo': (dict(type='RandomResizeCrop', size=8), r"'RandomResizeCrop' \(RandomResizedCrop"),
    'a typo of theirs': (dict(type='RandomRotatio', degrees=8), r'RandomRotation'),
    'an argument': (dict(type='RandomSolarize', thresholds=0.1), r"takes no 'thresholds'"),
    'their argument': (
        dict(type='RandomRotation', degree=8),
        'kornia does not make RandomRotation',
    ),
    'no name': (dict(p=0.5), "no augmentation 'None'"),
}


@pytest.mark.parametrize(('config', 'message'), WRONG.values(), ids=WRONG)
def test_wrong_augmentations_are_refused_in_one_line(config, message):
    with pytest.raises(ValueError, match=message) as error:
        preprocessor([[config]])
    assert '\n' not in str(error.value)


def trained_views(cfg, monkeypatch):
    """The views of a training, by (epoch, sample)."""
    seen, forward = {}, BatchAugmentPreprocessor.forward

    def spied(self, data, training=False):
        made = forward(self, data, training)
        if training:
            samples = self.indices(data).tolist()
            for sample, image in zip(samples, made['inputs'][0], strict=True):
                seen[int(self.epoch), sample] = image
        return made

    monkeypatch.setattr(BatchAugmentPreprocessor, 'forward', spied)
    train(cfg)
    return seen


def test_the_hook_says_the_epoch_also_in_the_middle_of_one(tmp_path, monkeypatch):
    """A run that is taken up within an epoch trains on the images of one that was not left."""
    cfg = tiny('coke', tmp_path)
    cfg.train_cfg.max_epochs = 2
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=5)
    whole = trained_views(cfg, monkeypatch)
    assert {epoch for epoch, _ in whole} == {0, 1}
    monkeypatch.undo()
    cfg.resume, cfg.load_from = True, str(tmp_path / 'iter_25.pth')
    resumed = trained_views(cfg, monkeypatch)
    assert {epoch for epoch, _ in resumed} == {1}
    assert all(torch.equal(image, whole[key]) for key, image in resumed.items())
