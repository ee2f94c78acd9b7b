"""Frozen networks of any checkpoint, and their features of whole data sets on disk."""

import json
import runpy
import shutil
import sys
from collections import namedtuple

import numpy as np
import pytest
import torch
import torchvision
from conftest import CONFIGS, ROOT, fork_ranks, tiny
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.models import ResNet, ResNet_CIFAR, ResNetV1d
from mmpretrain.structures import DataSample
from PIL import Image
from torch import nn
from torch.nn.functional import normalize

from mmcoke.cli.main import main
from mmcoke.datasets import CustomDataset, InMemoryImages
from mmcoke.engine.launch import train
from mmcoke.evaluation import extract_features
from mmcoke.features import backbones, store
from mmcoke.features.backbones import FrozenNetwork, load_frozen
from mmcoke.features.plain_images import config_images, feature_pipeline, folder_images
from mmcoke.features.store import FEATURES, extract_to_disk, open_features
from mmcoke.models import PlainConvNet, ResNetSobel
from mmcoke.models.stages import has_stages, pool_stage, stage_outputs
from mmcoke.registry import MODELS

OURS = CONFIGS / 'coke/coke_r18_1xb256_folder.py'
SOBEL = CONFIGS / 'deepcluster/deepcluster-sobel_r50_8xb64_in1k.py'
THEIRS = 'mmpretrain::resnet/resnet18_8xb32_in1k.py'
POOLED = {'pooled': FEATURES['pooled']}


def randomize(network, seed=0):
    """In eval mode, with statistics as after training: else BN would hide an exchange."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for x in (module.weight.data, module.running_var):
                x.uniform_(0.5, 1.5, generator=generator)
            for x in (module.bias.data, module.running_mean):
                x.uniform_(-0.2, 0.2, generator=generator)
    network.eval()  # mmengine's modules return nothing here
    return network


@pytest.fixture(scope='module')
def resnet():
    torch.manual_seed(0)
    return randomize(torchvision.models.resnet18(weights=None))


@pytest.fixture(scope='module')
def checkpoint(resnet, tmp_path_factory):
    """torchvision's ImageNet format, made on the spot."""
    path = tmp_path_factory.mktemp('torchvision') / 'resnet18.pth'
    torch.save(resnet.state_dict(), path)
    return path


@pytest.fixture
def photos(shared_data, tmp_path):
    """Four photos of each of three classes, of different sizes."""
    for source in sorted((shared_data / 'caltech10/val').iterdir())[:3]:
        target = tmp_path / 'photos' / source.name
        target.mkdir(parents=True)
        for path in sorted(source.iterdir())[:4]:
            shutil.copy(path, target)
    return tmp_path / 'photos'


# ---- what a network says about images


@pytest.mark.parametrize(
    'build',
    [
        lambda: ResNet(18, out_indices=(0, 1, 2, 3)),
        lambda: ResNet(50, base_channels=8, stem_channels=8, out_indices=(0, 1, 2, 3)),
        lambda: ResNetV1d(depth=18, stem_channels=16, base_channels=16, out_indices=(0, 1, 2, 3)),
        lambda: ResNet_CIFAR(18, base_channels=16, stem_channels=16, out_indices=(0, 1, 2, 3)),
        lambda: ResNetSobel(depth=18, out_indices=(0, 1, 2, 3)),
    ],
    ids=['ResNet-18', 'ResNet-50', 'deep stem', 'no max-pool', 'Sobel'],
)
def test_the_stages_are_those_of_mmpretrains_own_forward(build):
    network = randomize(build())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = network(images)
        network.out_indices = (1,)  # changes nothing
        maps = stage_outputs(network, images)
        x = network.sobel_layer(images) if isinstance(network, ResNetSobel) else images
        # No norm or ReLU in place here, as in the network.
        stem = network.stem(x) if network.deep_stem else network.norm1(network.conv1(x)).relu()
    assert len(maps) == 5
    for found, want in zip(maps, (stem, *expected), strict=True):
        assert torch.equal(found, want)
    assert not network.layer1._forward_hooks  # all hooks are gone


def test_other_networks_have_no_stages():
    assert not has_stages(MODELS.build(dict(type='MobileNetV2')))  # layer1 ... layer7
    with pytest.raises(ValueError, match='PlainConvNet has no ResNet stages'):
        stage_outputs(PlainConvNet(), torch.zeros(1, 1, 8, 8))


def test_the_pooling_of_a_224_image_is_the_published_one():
    """9216, 9216, 8192, 9216, 8192 numbers of ResNet-50; the windows, pixel by pixel."""
    windows = [(112, 64, 10, 10, 4), (56, 256, 16, 8, 0), (28, 512, 13, 5, 0)]
    windows += [(14, 1024, 8, 3, 0), (7, 2048, 6, 1, 0)]
    numbers = []
    for stage, (side, channels, kernel, stride, padding) in enumerate(windows):
        x = torch.rand(1, channels, side, side, dtype=torch.float64)
        pooled = pool_stage(x, stage)
        numbers.append(pooled.numel())
        padded = nn.functional.pad(x, [padding] * 4)
        for row in range(pooled.shape[2]):
            for column in range(pooled.shape[3]):
                top, left = row * stride, column * stride
                window = padded[0, :, top : top + kernel, left : left + kernel]
                expected = window.sum((1, 2)) / kernel**2
                torch.testing.assert_close(pooled[0, :, row, column], expected)
    assert numbers == [9216, 9216, 8192, 9216, 8192]


def test_maps_of_other_sizes_are_pooled_to_the_same_number():
    for stage, size in enumerate([12, 6, 4, 3, 2]):
        assert pool_stage(torch.rand(1, 2, 17, 19), stage).shape == (1, 2, size, size)


# ---- any checkpoint


LAYOUTS = {
    'bare': lambda state: state,
    'state_dict': lambda state: dict(state_dict=state, epoch=3),
    'model': lambda state: dict(model=state),
    'below module': lambda state: {f'module.{n}': x for n, x in state.items()},
    'mmpretrain': lambda state: dict(
        meta=dict(epoch=100),
        state_dict={f'backbone.{n}': x for n, x in state.items() if not n.startswith('fc.')}
        | {'head.fc.weight': state['fc.weight'], 'head.fc.bias': state['fc.bias']},
    ),
    'a momentum copy first': lambda state: dict(
        state_dict={f'encoder_k.{n}': x * 0 for n, x in state.items()}
        | {f'backbone.{n}': x for n, x in state.items()}
    ),
    'a momentum copy, other names': lambda state: dict(
        state_dict={f'module.encoder_q.{n}': x for n, x in state.items()}
        | {f'module.encoder_k.{n}': x * 0 for n, x in state.items()}
    ),
    'no counters': lambda state: {n: x for n, x in state.items() if 'num_batches' not in n},
}


@pytest.mark.parametrize('layout', LAYOUTS.values(), ids=LAYOUTS)
def test_the_weights_are_found_in_any_layout(layout, resnet, tmp_path):
    torch.save(layout(resnet.state_dict()), tmp_path / 'weights.pth')
    network = load_frozen(OURS, tmp_path / 'weights.pth')
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        stages = stage_outputs(network.backbone, images)
        for found, want in zip(stages, stage_outputs(resnet, images), strict=True):
            torch.testing.assert_close(found, want)
    assert network.origin['keys'] == '100 of 100 backbone keys matched'
    assert not network.training and not any(p.requires_grad for p in network.parameters())


def test_the_number_of_matched_keys_is_logged(checkpoint, monkeypatch):
    logged = []
    monkeypatch.setattr(
        'mmcoke.weights.pretrained.print_log', lambda text, **_: logged.append(text)
    )
    load_frozen(OURS, checkpoint)
    assert '100 of 100 backbone keys matched' in logged[0]


def test_the_weights_of_another_network_are_refused(checkpoint, tmp_path):
    with pytest.raises(ValueError, match=r'77 of 265 .*missing: layer1.0.conv3.weight.*ResNet 50'):
        load_frozen(CONFIGS / 'coke/coke_r50_8xb64_in1k.py', checkpoint)
    torch.save(torchvision.models.squeezenet1_1().state_dict(), tmp_path / 'squeezenet.pth')
    with pytest.raises(ValueError, match='Only 0 of 100'):
        load_frozen(OURS, tmp_path / 'squeezenet.pth')


def test_one_weight_of_another_shape_is_enough_to_refuse(resnet, tmp_path):
    """A network behind a Sobel filter has two input channels: 99 of 100 keys would match."""
    state = dict(resnet.state_dict())
    state['conv1.weight'] = state['conv1.weight'][:, :2]
    torch.save(state, tmp_path / 'sobel.pth')
    with pytest.raises(ValueError, match=r'99 of 100 .*of another shape: conv1.weight'):
        load_frozen(OURS, tmp_path / 'sobel.pth')


@pytest.mark.parametrize(('num_left_out', 'refused'), [(10, False), (11, True)])
def test_under_90_percent_is_refused(num_left_out, refused, resnet, tmp_path, monkeypatch):
    logged = []
    monkeypatch.setattr(
        'mmcoke.weights.pretrained.print_log', lambda text, **_: logged.append(text)
    )
    names = [name for name in resnet.state_dict() if 'num_batches' not in name]
    state = {n: x for n, x in resnet.state_dict().items() if n not in names[:num_left_out]}
    torch.save(state, tmp_path / 'part.pth')
    if refused:
        with pytest.raises(ValueError, match=r'Only 89 of 100 .*missing: conv1.weight'):
            load_frozen(OURS, tmp_path / 'part.pth')
    else:
        load_frozen(OURS, tmp_path / 'part.pth')
        assert '90 of 100' in logged[0] and 'missing: conv1.weight' in logged[0]


@pytest.mark.parametrize('content', [{}, dict(teacher=dict(x=torch.ones(1))), [1, 2]])
def test_a_file_without_weights_is_refused(content, tmp_path):
    torch.save(content, tmp_path / 'empty.pth')
    with pytest.raises(ValueError, match='holds no weights'):
        load_frozen(OURS, tmp_path / 'empty.pth')


def test_a_config_without_a_backbone_is_refused(checkpoint):
    with pytest.raises(ValueError, match='no model with a backbone'):
        load_frozen(CONFIGS / '_base_/default_runtime.py', checkpoint)


def test_a_sobel_network_sees_edges_wherever_its_filter_is_kept(tmp_path):
    cfg = Config.fromfile(SOBEL)
    cfg.model.backbone.depth = 18
    with DefaultScope.overwrite_default_scope('mmcoke'):
        trained = randomize(MODELS.build(cfg.model))
    state = trained.state_dict()
    assert any('sobel' in name for name in state)
    images = torch.randn(2, 3, 64, 64)
    for part in (state, {name: x for name, x in state.items() if 'sobel' not in name}):
        torch.save(dict(state_dict=part), tmp_path / 'sobel.pth')
        network = load_frozen(cfg, tmp_path / 'sobel.pth')
        assert network.origin['keys'] == '104 of 104 backbone keys matched'
        with torch.no_grad():
            found, want = network.backbone(images), trained.backbone(images)
        assert torch.equal(found[0], want[0])


def test_a_checkpoint_of_mmselfsup_loads_by_its_own_config(resnet, tmp_path):
    pytest.importorskip('mmselfsup')
    from mmengine.hub import get_config

    cfg = get_config('mmselfsup::selfsup/odc/odc_resnet50_8xb64-steplr-440e_in1k.py')
    cfg.model.backbone.depth, cfg.model.neck.in_channels = 18, 512
    state = {f'backbone.{n}': x for n, x in resnet.state_dict().items()}
    torch.save(dict(state_dict=state), tmp_path / 'odc.pth')
    network = load_frozen(cfg, tmp_path / 'odc.pth')
    assert type(network.backbone).__module__.startswith('mmselfsup')
    assert network.takes_bgr and network.neck is None
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        stages = stage_outputs(network.backbone, images)
        for found, want in zip(stages, stage_outputs(resnet, images), strict=True):
            torch.testing.assert_close(found, want)


# ---- images


def by_hand(resnet, path, size):
    """torchvision's own preparation of an image, and the network up to its classifier."""
    from torchvision.transforms import v2

    prepare = v2.Compose(
        [
            v2.Resize(round(size * 256 / 224)),
            v2.CenterCrop(size),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    image = prepare(Image.open(path).convert('RGB'))[None]
    with torch.no_grad():
        return [x[0].numpy() for x in stage_outputs(resnet, image)]


@pytest.mark.parametrize('config', [OURS, THEIRS], ids=['takes RGB', 'takes BGR'])
def test_features_of_photos_are_those_that_torchvision_computes(
    config, resnet, checkpoint, photos, tmp_path
):
    network = load_frozen(config, checkpoint)
    names = ('stage0', 'stage4', 'pooled')
    features = {name: FEATURES[name] for name in names}
    dataset = folder_images(network, photos, size=96)
    arrays = extract_to_disk(network, dataset, tmp_path / 'out', features, batch_size=5)
    paths = [path for folder in sorted(photos.iterdir()) for path in sorted(folder.iterdir())]
    assert len(paths) == len(arrays['pooled']) == 12
    assert arrays['gt_label'].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert arrays['stage0'].shape == (12, 64 * 12 * 12)
    for row, path in enumerate(paths):
        maps = by_hand(resnet, path, 96)
        stem = maps[0].reshape(64, 12, 4, 12, 4).mean((2, 4)).ravel()  # 48 = 12 * 4 pixels
        for name, expected in (('stage0', stem), ('pooled', maps[4].mean((1, 2)))):
            np.testing.assert_allclose(arrays[name][row], expected, atol=1e-4)


def test_augmentation_of_the_config_is_left_out(checkpoint, photos):
    cfg = Config.fromfile(OURS)
    cfg.train_dataloader.dataset.data_root = str(photos)
    network = load_frozen(cfg, checkpoint)
    dataset = config_images(cfg, network, size=32)
    expected = folder_images(network, photos, size=32)
    for i in (0, 11):
        assert torch.equal(dataset[i]['inputs'], expected[i]['inputs'])
    with pytest.raises(ValueError, match='no test_dataloader, but has those of: train'):
        config_images(cfg, network, split='test')


def test_a_random_pipeline_is_refused(checkpoint, photos, tmp_path):
    network = load_frozen(OURS, checkpoint)
    crop = [dict(type='torchvision/RandomResizedCrop', size=32)]
    dataset = CustomDataset(data_root=str(photos), pipeline=feature_pipeline(network, crop))
    with pytest.raises(ValueError, match='The pipeline makes another image'):
        extract_to_disk(network, dataset, tmp_path / 'out', POOLED)


def test_a_data_set_that_replaces_unreadable_images_is_refused(checkpoint, photos, tmp_path):
    network = load_frozen(OURS, checkpoint)
    sorted(photos.glob('*/*'))[5].write_bytes(b'no image')
    load = dict(type='LoadImageFromFile', ignore_empty=True)
    pipeline = [load, *feature_pipeline(network, [dict(type='torchvision/Resize', size=(32, 32))])]
    dataset = CustomDataset(data_root=str(photos), pipeline=pipeline)
    with pytest.raises(ValueError, match='Instead of image 5'):
        extract_to_disk(network, dataset, tmp_path / 'out', POOLED, batch_size=2)


# ---- our own checkpoints


def test_our_own_checkpoint_gives_the_features_of_the_trained_model(tmp_path):
    cfg = tiny('coke', tmp_path / 'work_dir')
    cfg.train_cfg.max_epochs = 1
    model = train(cfg)
    network = load_frozen(cfg, tmp_path / 'work_dir/epoch_1.pth')
    images = config_images(cfg, network)  # in memory: through the config's own pipeline
    features = {name: FEATURES[name] for name in ('pooled', 'projected')}
    arrays = extract_to_disk(network, images, tmp_path / 'out', features, batch_size=100)
    digits = InMemoryImages('digits', 'train', pipeline=cfg.pipeline)
    pooled, projected = extract_features(model, digits)
    torch.testing.assert_close(torch.tensor(arrays['pooled']), pooled)
    torch.testing.assert_close(torch.tensor(arrays['projected']), projected)
    assert np.array_equal(arrays['gt_label'], digits.labels)
    with pytest.raises(ValueError, match='stage0 needs a ResNet; of PlainConvNet take pooled'):
        extract_to_disk(network, images, tmp_path / 'other', {'stage0': FEATURES['stage0']})


def test_a_neck_without_weights_is_left_out(checkpoint, tmp_path, image_folder):
    network = load_frozen(OURS, checkpoint)
    assert network.neck is None
    dataset = folder_images(network, image_folder, size=32)
    with pytest.raises(ValueError, match='no neck'):
        extract_to_disk(network, dataset, tmp_path / 'out', {'projected': FEATURES['projected']})


def test_a_neck_of_several_parts_is_built():
    cfg = backbones.read_config('mmpretrain::hrnet/hrnet-w18_4xb32_in1k.py')
    with backbones.scope_of(cfg):
        expected = MODELS.build(cfg.model.neck)
    weights = {f'module.neck.{name}': x + 1 for name, x in expected.state_dict().items()}
    neck = backbones.load_neck(cfg, nn.Identity(), weights, 'module.backbone.')
    assert all(torch.equal(weights[f'module.neck.{n}'], x) for n, x in neck.state_dict().items())


# ---- files


class Images(list):
    """Small grey images with labels; counts how often one is loaded."""

    loaded = 0

    def __getitem__(self, i):
        Images.loaded += 1
        return super().__getitem__(i)


def images(num_images=23, labels=True):
    generator = torch.Generator().manual_seed(0)
    records = []
    for i in range(num_images):
        sample = DataSample()
        if labels:
            sample.set_gt_label(i % 4)
        image = torch.randint(256, (1, 16, 16), generator=generator, dtype=torch.uint8)
        records.append(dict(inputs=image, data_samples=sample))
    Images.loaded = 0
    return Images(records)


def small_network(seed=0):
    torch.manual_seed(seed)
    preprocessor = dict(type='SelfSupDataPreprocessor', mean=[127.5], std=[60.0])
    with DefaultScope.overwrite_default_scope('mmcoke'):
        preprocessor = MODELS.build(preprocessor)
    backbone = randomize(PlainConvNet(channels=[4, 6, 8]), seed)
    return FrozenNetwork(preprocessor, backbone, origin=dict(checkpoint=f'seed{seed}.pth'))


def one_by_one(network, dataset):
    pixels = torch.stack([record['inputs'] for record in list(dataset)]).float()
    rows = [network.backbone((x[None] - 127.5) / 60)[0].mean((2, 3)) for x in pixels]
    return torch.cat(rows).numpy()


@pytest.mark.parametrize('batch_size', [1, 7, 64])
def test_rows_are_in_order_and_do_not_depend_on_the_batch(batch_size, tmp_path):
    network, dataset = small_network(), images()
    arrays = extract_to_disk(network, dataset, tmp_path, POOLED, batch_size=batch_size)
    np.testing.assert_allclose(arrays['pooled'], one_by_one(network, dataset), atol=1e-6)
    assert arrays['gt_label'].tolist() == [i % 4 for i in range(23)]
    assert {path.name for path in tmp_path.iterdir()} == {
        'pooled.npy',
        'gt_label.npy',
        'meta.json',
    }
    assert isinstance(arrays['pooled'], np.memmap) and arrays['pooled'].dtype == np.float32
    with pytest.raises(ValueError, match='read-only'):
        arrays['pooled'][0] = 0


def stopping(after, error=KeyboardInterrupt):
    """The pooled feature, whose computation is interrupted after some images."""
    seen = 0

    def feature(maps, network):
        nonlocal seen
        seen += len(maps[0])
        if seen > after + 2:  # two images are taken to see the width
            raise error
        return FEATURES['pooled'](maps, network)

    return {'pooled': feature}


def test_an_interrupted_run_goes_on_where_it_was(tmp_path):
    network, dataset = small_network(), images()
    with pytest.raises(KeyboardInterrupt):
        extract_to_disk(network, dataset, tmp_path, stopping(15), batch_size=5)
    with pytest.raises(ValueError, match='not complete'):
        open_features(tmp_path)
    Images.loaded = 0
    arrays = extract_to_disk(network, dataset, tmp_path, POOLED, batch_size=5)
    assert Images.loaded == 4 + 8  # to compare with the first run; what was missing
    np.testing.assert_allclose(arrays['pooled'], one_by_one(network, dataset), atol=1e-6)
    assert arrays['gt_label'].tolist() == [i % 4 for i in range(23)]


def test_a_killed_process_loses_what_it_has_not_recorded(tmp_path, monkeypatch):
    network, dataset = small_network(), images()
    record = store.RowWriter.record
    now = 0.0

    def clock():
        nonlocal now
        now += 12.0  # so every third batch is recorded
        return now

    monkeypatch.setattr(store.time, 'monotonic', clock)
    monkeypatch.setattr(store.RowWriter, '__exit__', lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        extract_to_disk(network, dataset, tmp_path, stopping(20), batch_size=4)
    done = np.load(tmp_path / 'done.npy')
    assert 0 < done.sum() < 20 and done[: done.sum()].all()
    monkeypatch.undo()
    assert store.RowWriter.record is record
    arrays = extract_to_disk(network, dataset, tmp_path, POOLED)
    np.testing.assert_allclose(arrays['pooled'], one_by_one(network, dataset), atol=1e-6)


def test_complete_features_are_not_made_again(tmp_path):
    network, dataset = small_network(), images()
    both = POOLED | {'sum': lambda maps, network: maps[-1].sum((2, 3))}
    first = extract_to_disk(network, dataset, tmp_path, both)
    Images.loaded = 0
    again = extract_to_disk(network, dataset, tmp_path, POOLED)  # some of them
    assert Images.loaded == 4
    assert again.keys() == first.keys()


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(network=small_network(seed=1)), r'differ in network: of seed0.pth, pooled, 23'),
        (dict(dataset=images(22)), 'differ in images, num_samples'),
        (dict(features={'other': FEATURES['pooled']}), 'differ in features'),
        (dict(features=POOLED | {'other': FEATURES['pooled']}), 'differ in features'),
    ],
    ids=['network', 'images', 'other feature', 'one feature more'],
)
@pytest.mark.parametrize('complete', [False, True])
def test_a_folder_with_something_else_is_refused(change, message, complete, tmp_path):
    given = dict(network=small_network(), dataset=images(), features=POOLED)
    if complete:
        extract_to_disk(folder=tmp_path, **given)
    else:
        with pytest.raises(KeyboardInterrupt):
            extract_to_disk(folder=tmp_path, **given | dict(features=stopping(3)), batch_size=2)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=message):
        extract_to_disk(folder=tmp_path, **given | change)
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}


def test_other_normalization_is_another_network(tmp_path):
    network, dataset = small_network(), images()
    extract_to_disk(network, dataset, tmp_path, POOLED)
    network.data_preprocessor.mean += 1
    with pytest.raises(ValueError, match='differ in network: of'):
        extract_to_disk(network, dataset, tmp_path, POOLED)


def test_unlabelled_images_have_no_labels_and_several_are_none(tmp_path):
    network, dataset = small_network(), images(6, labels=False)
    assert set(extract_to_disk(network, dataset, tmp_path / 'none', POOLED)) == {'pooled'}
    dataset = images(6)
    dataset[4]['data_samples'].set_gt_label([1, 2])
    arrays = extract_to_disk(network, dataset, tmp_path / 'several', POOLED)
    assert arrays['gt_label'].tolist() == [0, 1, 2, 3, -1, 1]


@pytest.mark.parametrize(
    ('feature', 'message'),
    [
        (lambda maps, network: maps[-1], r'shape \(1, 8, 4, 4\): no row per image'),
        (lambda maps, network: maps[-1].mean((2, 3)).long(), 'no row per image'),
        (lambda maps, network: torch.rand(len(maps[-1]), 3), 'is another one each time'),
    ],
    ids=['a map', 'integers', 'random'],
)
def test_what_is_no_feature_is_refused(feature, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        extract_to_disk(small_network(), images(), tmp_path, {'x': feature})


def test_features_that_are_not_finite_are_refused(tmp_path):
    def feature(maps, network):
        return maps[-1].mean((2, 3)) / (len(maps[-1]) == 1)

    with pytest.raises(ValueError, match=r'x of images 0 ... 4 is not finite'):
        extract_to_disk(small_network(), images(), tmp_path, {'x': feature}, batch_size=5)


def test_a_disk_that_is_too_small_is_noticed_before_the_work(tmp_path, monkeypatch):
    usage = namedtuple('usage', 'free')(700)
    monkeypatch.setattr(store.shutil, 'disk_usage', lambda _: usage)
    with pytest.raises(ValueError, match=r'need 0.0 GB, but .* has 0.0 GB left'):
        extract_to_disk(small_network(), images(23), tmp_path, POOLED)  # 23 * 8 * 4 bytes = 736
    extract_to_disk(small_network(), images(21), tmp_path, POOLED)


def test_an_empty_data_set_and_an_empty_folder_are_refused(tmp_path):
    with pytest.raises(ValueError, match='The data set is empty'):
        extract_to_disk(small_network(), images(0), tmp_path, POOLED)
    with pytest.raises(ValueError, match='There are no features in'):
        open_features(tmp_path)


# ---- the tool


@pytest.mark.slow
def test_two_processes_complete_what_one_began(checkpoint, photos, tmp_path):
    """As one process would have written it."""
    network = load_frozen(OURS, checkpoint)
    dataset = folder_images(network, photos, size=64)
    whole = extract_to_disk(network, dataset, tmp_path / 'whole', POOLED, batch_size=12)
    with pytest.raises(KeyboardInterrupt):
        extract_to_disk(network, dataset, tmp_path / 'parts', stopping(3), batch_size=3)
    assert np.load(tmp_path / 'parts/done.npy').sum() == 3
    tool = ['extract_features.py', OURS, checkpoint, '--data-root', photos]
    tool += ['--out', tmp_path / 'parts', '--size', 64, '--batch-size', 2, '--num-workers', 0]
    codes, said = fork_ranks(2, *tool, folder=tmp_path)
    assert codes == [0, 0], said[-3000:]
    assert said.count('pooled.npy  float32 (12, 512)') == 1
    assert said.count('100 of 100 backbone keys matched') == 1
    parts = open_features(tmp_path / 'parts')
    np.testing.assert_allclose(parts['pooled'], whole['pooled'], atol=1e-5)
    assert np.array_equal(parts['gt_label'], whole['gt_label'])


def run_tool(monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', ['extract_features.py', *map(str, arguments)])
    runpy.run_path(str(ROOT / 'tools/extract_features.py'), run_name='__main__')


def test_the_tool_takes_the_data_set_of_the_config(tmp_path, monkeypatch, capsys):
    cfg = tiny('coke')
    cfg.dump(tmp_path / 'tiny.py')
    with DefaultScope.overwrite_default_scope('mmcoke'):
        model = MODELS.build(cfg.model)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'random.pth')
    monkeypatch.chdir(tmp_path)
    arguments = ('--features', 'pooled', 'projected', '--num-workers', 0)
    options = ('--cfg-options', 'train_dataloader.dataset.split=test')
    run_tool(monkeypatch, tmp_path / 'tiny.py', tmp_path / 'random.pth', *arguments, *options)
    out = tmp_path / 'work_dirs/tiny/features/train'
    assert 'projected.npy  float32 (540, 8)' in capsys.readouterr().out
    arrays = open_features(out)
    norms = np.linalg.norm(arrays['projected'], axis=1)
    np.testing.assert_allclose(norms, np.ones(540), atol=1e-5)
    assert arrays['projected'].shape == normalize(torch.ones(540, 8)).shape
    assert json.loads((out / 'meta.json').read_text())['origin']['checkpoint'].endswith('.pth')


def test_a_model_of_the_zoo_and_a_config_of_the_package_are_the_same(tmp_path, monkeypatch):
    """Without a checkpoint the first argument is a name; configs are found without a checkout."""
    monkeypatch.chdir(tmp_path)
    name = 'coke_tiny_1xb64_digits'
    networks = ([name], [f'mmcoke::selfsup/coke/{name}.py', f'mmcoke://{name}'])
    for number, network in enumerate(networks):
        options = ['--split', 'train', '--num-workers', '0', '--out', f'out{number}']
        main(['features', *network, *options])
    first, second = (np.load(f'out{number}/pooled.npy') for number in (0, 1))
    assert len(first) == 1257
    assert np.array_equal(first, second)


def test_a_network_that_is_not_named_whole_is_one_line(capsys):
    for arguments, message in (
        (['a.py'], 'a config needs a checkpoint'),
        (['coke_tinny_digits'], 'Did you mean'),
        (['nothere::a.py', 'b.pth'], 'nothere'),
    ):
        with pytest.raises(SystemExit) as end:
            main(['features', *arguments])
        code = end.value.code
        assert message in (code if isinstance(code, str) else capsys.readouterr().err)


def test_the_tool_says_what_is_wrong_without_a_traceback(checkpoint, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=r'error: .*No such file'):
        run_tool(monkeypatch, OURS, tmp_path / 'missing.pth')
    with pytest.raises(SystemExit, match='error: Only 77 of 265'):
        run_tool(monkeypatch, CONFIGS / 'coke/coke_r50_8xb64_in1k.py', checkpoint)
    with pytest.raises(SystemExit, match='error: There is no image folder'):
        run_tool(monkeypatch, OURS, checkpoint, '--data-root', tmp_path / 'missing')
