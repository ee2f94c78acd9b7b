"""Features of images of every kind, from a config and a checkpoint or from a name."""

import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from conftest import CONFIGS, tiny
from mmengine.config import Config
from mmengine.dataset import default_collate, pseudo_collate
from mmengine.registry import DefaultScope
from PIL import Image
from torch.utils.data import DataLoader

from mmcoke import zoo
from mmcoke.datasets import UnreadableImageError
from mmcoke.features.backbones import load_frozen
from mmcoke.features.extractor import FeatureExtractor, image_files
from mmcoke.features.plain_images import config_images, folder_images
from mmcoke.features.store import FEATURES, extract_to_disk
from mmcoke.registry import MODELS

OURS = CONFIGS / 'coke/coke_r18_1xb256_folder.py'
THEIRS = 'mmpretrain::resnet/resnet18_8xb32_in1k.py'  # takes the channels in the order B, G, R


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """torchvision's ResNet-18, not trained."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('torchvision') / 'resnet18.pth'
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    return path


@pytest.fixture(scope='module')
def extractor(checkpoint):
    return FeatureExtractor(OURS, checkpoint, size=64, batch_size=4, progress=False)


@pytest.fixture(scope='module')
def digits_network(tmp_path_factory):
    """Config and checkpoint of a network that takes one channel."""
    cfg, path = tiny('coke'), tmp_path_factory.mktemp('digits') / 'digits.pth'
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmcoke'):
        torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), path)
    return cfg, path


@pytest.fixture
def folder(tmp_path):
    """PNG files of different sizes in nested folders, whose names sort unlike their numbers."""
    random = np.random.default_rng(0)
    for i, name in enumerate(['b/10', 'b/9', 'a/x/0', 'a/1', 'c/z', 'c/Z']):
        path = tmp_path / 'images' / f'{name}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 255, (70 + i, 90 - i, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return tmp_path / 'images'


def arrays_of(paths):
    return [np.asarray(Image.open(path)) for path in paths]


def close(found, want):
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


# ---- the same features, whatever the input


@pytest.mark.parametrize('config', [OURS, THEIRS], ids=['RGB', 'BGR'])
@pytest.mark.parametrize('feature', ['pooled', 'stage2'])
def test_a_folder_has_the_features_of_the_tool(config, feature, checkpoint, folder, tmp_path):
    network = load_frozen(config, checkpoint)
    dataset = folder_images(network, folder, size=64)
    want = extract_to_disk(network, dataset, tmp_path / 'out', {feature: FEATURES[feature]})
    extractor = FeatureExtractor(config, checkpoint, size=64, batch_size=4, progress=False)
    features, paths = extractor(folder, feature=feature)
    assert [str(path) for path in paths] == [
        dataset.get_data_info(row)['img_path'] for row in range(len(dataset))
    ]
    assert features.dtype == np.float32
    close(features, want[feature])


def test_the_default_size_is_that_of_the_tool(checkpoint, folder, tmp_path):
    network = load_frozen(OURS, checkpoint)
    pooled = {'pooled': FEATURES['pooled']}
    want = extract_to_disk(network, folder_images(network, folder), tmp_path / 'out', pooled)
    close(FeatureExtractor(OURS, checkpoint)(folder).features, want['pooled'])


@pytest.mark.parametrize('batch_size', [1, 3, 100])
def test_the_batch_size_changes_nothing(batch_size, extractor, checkpoint, folder):
    other = FeatureExtractor(OURS, checkpoint, size=64, batch_size=batch_size, progress=False)
    close(other(folder).features, extractor(folder).features)


KINDS = {
    'files': lambda paths: paths,
    'file names': lambda paths: [str(path) for path in paths],
    'PIL images': lambda paths: [Image.open(path) for path in paths],
    'arrays': arrays_of,
    'a tuple': lambda paths: tuple(arrays_of(paths)),
    'tensors': lambda paths: [torch.from_numpy(x.copy()) for x in arrays_of(paths)],
    'read-only': lambda paths: [np.broadcast_to(x, x.shape) for x in arrays_of(paths)],
}


@pytest.mark.parametrize('kind', KINDS.values(), ids=KINDS)
def test_images_of_every_kind_have_the_features_of_their_files(kind, extractor, folder):
    features, paths = extractor(folder)
    assert np.array_equal(extractor(kind(paths[::-1])), features[::-1])


def test_one_array_of_many_images(extractor, folder):
    paths = image_files(folder)
    images = np.stack([np.asarray(Image.open(path).resize((80, 80))) for path in paths])
    want = extractor(list(images))
    assert np.array_equal(extractor(images), want)
    assert np.array_equal(extractor(torch.from_numpy(images)), want)
    assert np.array_equal(extractor(images[..., 0]), extractor(images[..., :1].repeat(3, axis=3)))


def test_one_file_is_one_row(extractor, folder):
    features, paths = extractor(folder)
    assert np.allclose(extractor(paths[2]), features[2:3], atol=1e-4)


def test_photos_are_turned_as_their_exif_data_say(extractor, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (80, 100, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(pixels).save(tmp_path / 'turned.png', exif=exif)
    x = extractor([tmp_path / 'turned.png'])
    assert np.array_equal(extractor([Image.open(tmp_path / 'turned.png')]), x)
    assert np.array_equal(extractor([np.rot90(pixels, -1)]), x)


def test_tensors_on_request(extractor, folder):
    features = extractor(folder, tensors=True).features
    assert isinstance(features, torch.Tensor) and not features.requires_grad
    assert np.array_equal(features.numpy(), extractor(folder).features)


@pytest.mark.parametrize('collate', [default_collate, pseudo_collate])
def test_a_loader_of_openmmlab(collate, extractor, folder):
    loader = DataLoader(folder_images(extractor.network, folder, size=64), 4, collate_fn=collate)
    assert np.array_equal(extractor(loader), extractor(folder).features)


def test_a_loader_of_inputs_alone(extractor, folder):
    dataset = folder_images(extractor.network, folder, size=64)
    inputs = torch.stack([dataset[row]['inputs'] for row in range(len(dataset))])
    batches = [dict(inputs=part) for part in inputs.split(4)]
    assert np.array_equal(extractor(batches), extractor(folder).features)


@pytest.mark.parametrize('batch', [lambda x: x, lambda x: (x, torch.zeros(len(x)))])
def test_a_loader_of_normalized_floats(batch, extractor, folder):
    dataset = folder_images(extractor.network, folder, size=64)
    images = torch.stack([dataset[row]['inputs'] for row in range(len(dataset))]).float()
    preprocessor = extractor.network.data_preprocessor
    parts = ((images - preprocessor.mean) / preprocessor.std).split(4)
    # A generator, too: it has no length, and can be read once.
    close(extractor(batch(part) for part in parts), extractor(folder).features)


def test_stages_and_projections(extractor, digits_network, folder):
    assert extractor(folder, feature='stage4').features.shape == (6, 2048)
    assert extractor(folder, feature='stage4+pooled').features.shape == (6, 2048 + 512)
    x = FeatureExtractor(*digits_network)(np.zeros((3, 8, 8), np.uint8), feature='projected')
    assert x.shape == (3, 8) and np.allclose(np.linalg.norm(x, axis=1), 1)


# ---- networks for one channel, and data in memory


def test_digits_go_through_the_pipeline_of_their_config(digits_network, tmp_path):
    cfg, path = digits_network
    network = load_frozen(cfg, path)
    dataset = config_images(cfg, network)
    want = extract_to_disk(network, dataset, tmp_path / 'out', {'pooled': FEATURES['pooled']})
    images = np.stack([dataset.get_data_info(row)['img'] for row in range(200)])
    extractor = FeatureExtractor(cfg, path)
    close(extractor(images), want['pooled'][:200])
    for row in range(2):
        Image.fromarray(images[row]).save(tmp_path / f'{row}.png')
    close(extractor([tmp_path / '0.png', tmp_path / '1.png']), want['pooled'][:2])


def test_a_given_size_replaces_the_pipeline_of_the_config(digits_network):
    images = np.random.default_rng(0).integers(0, 255, (2, 8, 8), dtype=np.uint8)
    found = FeatureExtractor(*digits_network, size=14)(images)
    resized = [np.asarray(Image.fromarray(x).resize((16, 16), 2))[1:15, 1:15] for x in images]
    network = load_frozen(*digits_network)
    with torch.no_grad():
        want = network.backbone((torch.tensor(np.stack(resized))[:, None] - 76.5) / 89.25)[-1]
    close(found, want.mean((2, 3)).numpy())


def test_images_of_several_sizes_are_refused_where_nothing_resizes_them(checkpoint):
    cfg = Config.fromfile(OURS)
    cfg.train_dataloader.dataset.pipeline = [dict(type='PackInputs')]
    images = [np.zeros((40, 40, 3), np.uint8), np.zeros((40, 48, 3), np.uint8)]
    with pytest.raises(ValueError, match=r'several sizes .*\(40, 40\), \(40, 48\)'):
        FeatureExtractor(cfg, checkpoint)(images)
    assert FeatureExtractor(cfg, checkpoint, size=32)(images).shape == (2, 512)


# ---- what cannot work


@pytest.mark.parametrize('num_workers', [0, 1])
@pytest.mark.parametrize('content', [None, b'', b'no image'], ids=['absent', 'empty', 'text'])
def test_an_unreadable_image_is_named(content, num_workers, checkpoint, folder):
    path = folder / 'b/9.png'
    paths = image_files(folder)
    path.unlink() if content is None else path.write_bytes(content)
    extractor = FeatureExtractor(OURS, checkpoint, size=64, num_workers=num_workers)
    with pytest.raises(
        UnreadableImageError, match=r'^1 of \d+ images cannot be read: .*b/9\.png \('
    ) as info:
        extractor(paths)
    assert 'Traceback' not in str(info.value)


@pytest.mark.parametrize('kind', [str, Path])
def test_a_folder_that_is_not_there_is_no_unreadable_image(kind, checkpoint, tmp_path):
    extractor = FeatureExtractor(OURS, checkpoint, size=64)
    with pytest.raises(FileNotFoundError, match=r'There is no folder or image file .*nofolder'):
        extractor(kind(tmp_path / 'nofolder'))


@pytest.mark.parametrize('model', [123, None, ['resnet']])
def test_what_is_no_model_is_refused(model):
    with pytest.raises(ValueError, match='must be a name in the model zoo, or a config'):
        FeatureExtractor(model)


UINT8 = np.zeros((2, 8, 9, 3), np.uint8)


@pytest.mark.parametrize(
    'images',
    [UINT8 / 255, UINT8.transpose(0, 3, 1, 2), UINT8[0], UINT8[0, 0], [UINT8[0] / 255]],
    ids=['floats', 'channels first', 'one image', 'a row', 'a list of floats'],
)
def test_arrays_of_another_layout_are_refused(images, extractor):
    with pytest.raises(ValueError, match=r'must be uint8, RGB, \(A, H, W, 3\).* but this one is'):
        extractor(images)


@pytest.mark.parametrize('images', [[], (), iter([]), UINT8[:0]])
def test_nothing_is_refused(images, extractor):
    with pytest.raises(ValueError, match='no images'):
        extractor(images)


def test_a_folder_without_images_is_refused(extractor, tmp_path):
    with pytest.raises(ValueError, match='no image in'):
        extractor(tmp_path)


@pytest.mark.parametrize(
    'batch', [torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(3, 8, 8), {'img': 0}, 'a.jpg']
)
def test_batches_of_another_kind_are_refused(batch, extractor):
    with pytest.raises(ValueError, match='A batch must be'):
        extractor(iter([batch]))


def test_features_that_the_network_lacks_are_refused(extractor, folder, digits_network):
    with pytest.raises(ValueError, match=r"no feature 'stage5'\. Take one of stage0"):
        extractor(folder, feature='stage5')
    with pytest.raises(ValueError, match='no neck'):
        extractor(folder, feature='projected')
    with pytest.raises(ValueError, match='stage4 needs a ResNet'):
        FeatureExtractor(*digits_network)(np.zeros((3, 8, 8), np.uint8), feature='stage4')


def test_features_that_are_not_finite_are_refused(extractor):
    with pytest.raises(ValueError, match='pooled is not finite'):
        extractor(iter([torch.full((1, 3, 64, 64), torch.nan)]))


def test_a_config_without_a_checkpoint_is_refused():
    with pytest.raises(ValueError, match='needs a checkpoint'):
        FeatureExtractor(OURS)


def test_another_network_is_refused(checkpoint):
    with pytest.raises(ValueError, match='Only 77 of 265 backbone keys matched'):
        FeatureExtractor(CONFIGS / 'coke/coke_r50_8xb64_in1k.py', checkpoint)
    assert FeatureExtractor(OURS, checkpoint).network.origin['keys'].startswith('100 of 100')


# ---- names, and the way there


def test_a_name_is_looked_up_and_downloaded(extractor, checkpoint, folder, monkeypatch):
    asked = []

    def show(name):
        asked.append(name)
        return types.SimpleNamespace(config=OURS)

    def download(name):
        asked.append(name)
        return checkpoint

    monkeypatch.setattr(zoo, 'show', show)
    monkeypatch.setattr(zoo, 'download', download)
    found = FeatureExtractor('coke_r18', size=64, batch_size=4)(folder).features
    assert asked == ['coke_r18', 'coke_r18']
    assert np.array_equal(found, extractor(folder).features)


def test_the_bar_can_be_turned_off(checkpoint, folder, capsys):
    FeatureExtractor(OURS, checkpoint, size=64, progress=False)(folder)
    assert 'Features' not in capsys.readouterr().out
    FeatureExtractor(OURS, checkpoint, size=64)(folder)
    assert 'Features' in capsys.readouterr().out


def test_mmcoke_imports_nothing_until_the_class_is_used():
    code = (
        "import sys, mmcoke; print({'torch', 'mmengine', 'mmpretrain'} & set(sys.modules));"
        "print(hasattr(mmcoke, 'nothing'), mmcoke.FeatureExtractor.__name__)"
    )
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ['set()', 'False FeatureExtractor']
