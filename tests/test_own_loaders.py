"""Evaluation reads images as the config does: loaders of one's own, depths, channels, data sets."""

import runpy
import sys

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT
from mmcv.transforms import BaseTransform
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.datasets import BaseDataset
from PIL import Image

from mmcoke.datasets.loading import loading_of, loading_transforms
from mmcoke.features.backbones import load_frozen
from mmcoke.features.extractor import FeatureExtractor
from mmcoke.features.plain_images import config_images, folder_images
from mmcoke.registry import DATASETS, MODELS, TRANSFORMS

SIZE, SIDE = 56, 64  # 56 * 256 / 224 = 64: images of that side are cropped, not resized


@TRANSFORMS.register_module()
class LoadTwelveBits(BaseTransform):
    """A loader of one's own: 12 bits as floats 0 ... 255, three times."""

    def transform(self, results):
        pixels = cv2.imread(results['img_path'], cv2.IMREAD_UNCHANGED)
        image = (pixels / 4095 * 255).astype(np.float32)
        return results | dict(img=np.stack([image] * 3, -1), img_shape=image.shape)


@TRANSFORMS.register_module()
class Negative(BaseTransform):
    """Deterministic, of no library, and no geometry."""

    def transform(self, results):
        return results | dict(img=255 - results['img'])


@TRANSFORMS.register_module()
class RandomShift(BaseTransform):
    """An augmentation of one's own."""

    def transform(self, results):
        return results | dict(img=np.roll(results['img'], np.random.randint(20), 1))


@TRANSFORMS.register_module()
class Halve(BaseTransform):
    """A resize of one's own."""

    def transform(self, results):
        return results | dict(img=results['img'][::2, ::2])


@TRANSFORMS.register_module()
class LoadFromShard(BaseTransform):
    """Reads an image out of one file of many."""

    def transform(self, results):
        shard = np.load(results['shard'], mmap_mode='r')
        return results | dict(img=np.array(shard[results['offset']]))


@DATASETS.register_module()
class Shards(BaseDataset):
    """A data set of one's own, without files of images."""

    def load_data_list(self):
        num_images = len(np.load(self.ann_file, mmap_mode='r'))
        return [dict(shard=self.ann_file, offset=i, gt_label=i % 2) for i in range(num_images)]


def config(tmp_path, loading, *, channels=3, mean=(100.0,), dataset=None, **preprocessor):
    """A config of a small network with a checkpoint, whose training reads and augments so."""
    pipeline = [
        *loading,
        dict(type='RandomResizedCrop', scale=SIZE),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackInputs'),
    ]
    dataset = dataset or dict(type='CustomDataset', data_root=str(tmp_path / 'images'))
    if dataset['type'] == 'CustomDataset':
        dataset['with_label'] = False
    cfg = Config(
        dict(
            model=dict(
                type='CoKe',
                backbone=dict(
                    type='ResNet',
                    depth=18,
                    in_channels=channels,
                    stem_channels=8,
                    base_channels=8,
                ),
                data_preprocessor=dict(
                    type='SelfSupDataPreprocessor', mean=mean, std=[50.0], **preprocessor
                ),
            ),
            train_dataloader=dict(dataset=dict(dataset, pipeline=pipeline)),
            default_scope='mmcoke',
        )
    )
    cfg.model.data_preprocessor.std = [50.0] * len(mean)
    with DefaultScope.overwrite_default_scope('mmcoke'):
        torch.manual_seed(0)
        backbone = MODELS.build(cfg.model.backbone)
    state = {f'backbone.{name}': x for name, x in backbone.state_dict().items()}
    torch.save(dict(state_dict=state), tmp_path / 'net.pth')
    cfg.dump(tmp_path / 'net.py')
    cfg = Config.fromfile(tmp_path / 'net.py')
    return cfg, load_frozen(cfg, tmp_path / 'net.pth')


def by_hand(network, image, mean=100.0):
    """Pooled features of pixels (H, W, C), in the order that the network takes, cropped."""
    edge = (SIDE - SIZE) // 2
    x = torch.from_numpy(np.float32(image)).permute(2, 0, 1)[:, edge:-edge, edge:-edge]
    with torch.no_grad():
        maps = network.backbone(((x - torch.tensor(mean).view(-1, 1, 1)) / 50)[None])
    return maps[-1].mean((2, 3))[0].numpy()


def write_images(folder, shape, dtype=np.uint8, high=256, num_images=3):
    folder.mkdir()
    random = np.random.default_rng(0)
    images = random.integers(0, high, (num_images, *shape)).astype(dtype)
    for i, image in enumerate(images):
        cv2.imwrite(str(folder / f'{i}.png'), image)
    return images


def extract(tmp_path, *arguments):
    """Pooled features by ``tools/extract_features.py``."""
    tool = str(ROOT / 'tools/extract_features.py')
    arguments = [tmp_path / 'net.py', tmp_path / 'net.pth', '--size', SIZE, *arguments]
    arguments += ['--out', tmp_path / 'out', '--num-workers', 0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', [tool, *map(str, arguments)])
        runpy.run_path(tool, run_name='__main__')
    return np.load(tmp_path / 'out/pooled.npy')


@pytest.mark.parametrize('source', ['config', 'folder', 'extractor'])
def test_a_loader_of_ones_own_is_kept(source, tmp_path):
    images = write_images(tmp_path / 'images', (SIDE, SIDE), np.uint16, 4096)
    loading = [dict(type='LoadTwelveBits'), dict(type='Negative')]
    cfg, network = config(tmp_path, loading)
    if source == 'extractor':
        extractor = FeatureExtractor(cfg, tmp_path / 'net.pth', size=SIZE, progress=False)
        found = extractor(tmp_path / 'images')[0]
    else:
        data = ['--data-root', tmp_path / 'images'] if source == 'folder' else []
        found = extract(tmp_path, *data)
    for row, image in zip(found, images, strict=True):
        seen = 255 - np.stack([image / 4095 * 255] * 3, -1)
        np.testing.assert_allclose(row, by_hand(network, seen), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ('channels', 'color_type', 'shape', 'dtype', 'high'),
    [
        (1, 'grayscale', (SIDE, SIDE), np.uint8, 256),
        (1, 'unchanged', (SIDE, SIDE), np.uint16, 4096),
        (4, 'unchanged', (SIDE, SIDE, 4), np.uint8, 256),
    ],
    ids=['grey', '16-bit grey', '4 channels'],
)
def test_depth_and_channels_are_those_of_the_config(
    channels, color_type, shape, dtype, high, tmp_path
):
    images = write_images(tmp_path / 'images', shape, dtype, high)
    loading = [dict(type='LoadImageFromFile', color_type=color_type)]
    _, network = config(tmp_path, loading, channels=channels)
    found = extract(tmp_path, '--data-root', tmp_path / 'images')
    for row, image in zip(found, images.reshape(3, SIDE, SIDE, channels), strict=True):
        np.testing.assert_allclose(row, by_hand(network, image), rtol=1e-4, atol=1e-5)


def test_other_depths_are_resized_as_torch_does(tmp_path):
    (image,) = write_images(tmp_path / 'images', (96, 128), np.uint16, 4096, 1)
    loading = [dict(type='LoadImageFromFile', color_type='unchanged')]
    cfg, network = config(tmp_path, loading, channels=1)
    found = config_images(cfg, network, size=28)[0]['inputs']  # shorter side 32
    x = torch.from_numpy(np.float32(image))[None, None]
    x = torch.nn.functional.interpolate(x, (32, 42), mode='bilinear', antialias=True)
    torch.testing.assert_close(found, x[0, :, 2:30, 7:35])


def test_a_data_set_of_ones_own_needs_no_files(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3)).astype(np.uint8)
    np.save(tmp_path / 'shard.npy', images)
    dataset = dict(type='Shards', ann_file=str(tmp_path / 'shard.npy'))
    _, network = config(tmp_path, [dict(type='LoadFromShard')], dataset=dataset)
    found = extract(tmp_path)
    for row, image in zip(found, images, strict=True):
        np.testing.assert_allclose(row, by_hand(network, image), rtol=1e-4, atol=1e-5)
    assert np.load(tmp_path / 'out/gt_label.npy').tolist() == [0, 1, 0]


@pytest.mark.parametrize('turned', [False, True])
def test_channels_of_a_loader_of_ones_own_are_turned_as_in_training(turned, tmp_path):
    """Its order nobody knows: it is what the network was trained with, once turned or not."""
    images = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3)).astype(np.uint8)
    np.save(tmp_path / 'shard.npy', images)
    dataset = dict(type='Shards', ann_file=str(tmp_path / 'shard.npy'))
    loading = [dict(type='LoadFromShard'), dict(type='NumpyToPIL', to_rgb=turned)]
    loading += [dict(type='PILToNumpy')]
    mean = [123.0, 116.0, 103.0]
    _, network = config(tmp_path, loading, dataset=dataset, mean=mean)
    found = extract(tmp_path)
    seen = images[..., ::-1] if turned else images
    for row, image in zip(found, seen, strict=True):
        np.testing.assert_allclose(row, by_hand(network, image, mean), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('to_rgb', [False, True])
def test_ordinary_images_are_resized_by_pillow_to_the_bit(to_rgb, tmp_path):
    write_images(tmp_path / 'images', (70, 90, 3))
    mean = [123.0, 116.0, 103.0]
    cfg, network = config(tmp_path, [dict(type='LoadImageFromFile')], mean=mean, to_rgb=to_rgb)
    dataset = folder_images(network, tmp_path / 'images', size=28, cfg=cfg)
    with Image.open(tmp_path / 'images/1.png') as image:
        image = np.array(image.resize((41, 32), Image.BILINEAR).crop((6, 2, 34, 30)))
    image = image[..., ::-1] if to_rgb else image  # the preprocessor turns them, or not
    assert np.array_equal(dataset[1]['inputs'].permute(1, 2, 0), image)


def test_colour_becomes_grey_and_grey_colour_for_the_network(tmp_path):
    (image,) = write_images(tmp_path / 'images', (SIDE, SIDE, 3), num_images=1)
    cfg, network = config(tmp_path, [dict(type='LoadImageFromFile')], channels=1)
    found = folder_images(network, tmp_path / 'images', size=SIZE, cfg=cfg)[0]['inputs']
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[4:-4, 4:-4]
    assert np.array_equal(found[0], grey)
    loading = [dict(type='LoadImageFromFile', color_type='grayscale')]
    cfg, network = config(tmp_path, loading)
    found = folder_images(network, tmp_path / 'images', size=SIZE, cfg=cfg)[0]['inputs']
    np.testing.assert_allclose(found, np.stack([grey] * 3), atol=1)  # decoders round


def test_too_few_channels_are_refused_with_the_remedy(tmp_path):
    write_images(tmp_path / 'images', (SIDE, SIDE, 3))
    config(tmp_path, [dict(type='LoadImageFromFile')], channels=4)
    with pytest.raises(SystemExit, match=r'of 4 channels, but .* give 3 for .*0\.png.*unchanged'):
        extract(tmp_path)


def built(*names):
    with DefaultScope.overwrite_default_scope('mmcoke'):
        return [TRANSFORMS.build(dict(type=name)) for name in names]


@pytest.mark.parametrize(
    ('names', 'num_loading'),
    [
        (['LoadImageFromFile', 'NumpyToPIL', 'Negative', 'PackInputs'], 3),
        (['LoadImageFromFile', 'NumpyToPIL', 'PackInputs'], 1),
        (['LoadImageFromFile', 'Negative', 'RandomShift', 'Negative', 'PackInputs'], 2),
        (['LoadImageFromFile', 'Halve', 'PackInputs'], 1),
        (['Negative', 'RandomShift', 'PackInputs'], 1),
    ],
)
def test_loading_ends_ahead_of_augmentation_and_resizing(names, num_loading, tmp_path):
    write_images(tmp_path / 'images', (SIDE, SIDE, 3))
    record = dict(img_path=str(tmp_path / 'images/0.png'))
    if names[0] == 'Negative':
        record['img'] = np.zeros((8, 8, 3), np.uint8)
    transforms = built(*names)
    if 'NumpyToPIL' in names and 'Negative' in names:
        transforms[2].transform = lambda results: results
    broken = dict(img_path='absent.png')  # says nothing
    assert loading_transforms(transforms, [broken, record]) == transforms[:num_loading]


def test_crops_that_read_files_stand_for_their_loader_and_crops_of_arrays_for_nothing():
    with DefaultScope.overwrite_default_scope('mmcoke'):
        crops = dict(type='RandomResizedCrops', views=[dict(size=8)], color_type='grayscale')
        transforms = [TRANSFORMS.build(crops), TRANSFORMS.build(dict(type='PackInputs'))]
    assert loading_transforms(transforms, [dict(img=np.zeros((8, 8), np.uint8))]) == []
    (loader,) = loading_transforms(transforms, [dict(img_path='absent.png')])
    assert (type(loader).__name__, loader.color_type) == ('LoadImageFromFile', 'grayscale')


@pytest.mark.parametrize('ahead', [[], [dict(type='LoadImageFromFile'), dict(type='Negative')]])
def test_features_have_the_channels_in_the_order_that_crops_give(ahead, tmp_path):
    image = write_images(tmp_path / 'images', (SIDE, SIDE, 3))[0][..., ::-1]
    mean = (90.0, 80.0, 70.0)  # falls, as in R, G, B
    crops = dict(type='RandomResizedCrops', views=[dict(size=SIZE)])
    cfg, network = config(tmp_path, [*ahead, crops], mean=mean)
    cfg.train_dataloader.dataset.pipeline = [*ahead, crops, dict(type='PackInputs')]
    found = config_images(cfg, network, size=SIZE)[0]['inputs'].numpy()
    edge = (SIDE - SIZE) // 2
    expected = (255 - image if ahead else image)[edge:-edge, edge:-edge]
    np.testing.assert_array_equal(found, expected.transpose(2, 0, 1))


def test_looking_for_the_loading_transforms_draws_no_random_number(tmp_path):
    write_images(tmp_path / 'images', (SIDE, SIDE, 3))
    cfg, _ = config(tmp_path, [dict(type='LoadImageFromFile'), dict(type='RandomShift')])
    with DefaultScope.overwrite_default_scope('mmcoke'):
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
    np.random.seed(0)
    expected = np.random.rand()
    np.random.seed(0)
    assert len(loading_of(dataset)) == 1
    assert np.random.rand() == expected
