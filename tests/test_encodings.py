"""Encodings of features: distances to centers, and several features beside each other."""

import json
from importlib import import_module

import numpy as np
import pytest
import torch
from conftest import fork_ranks, tiny
from mmengine.registry import DefaultScope
from PIL import Image
from torch.nn.functional import normalize
from torchvision.models import resnet18

from mmcoke.cli.main import main
from mmcoke.clustering import kmeans, triangle
from mmcoke.features import encodings
from mmcoke.features.backbones import FrozenNetwork
from mmcoke.features.store import FEATURES, feature_of, open_features
from mmcoke.files import read_checkpoint, write_rows
from mmcoke.models.stages import stage_outputs
from mmcoke.registry import MODELS

# ---- the mathematics


def test_the_triangle_is_that_of_the_formula():
    x_AD = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    centers_KD = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
    # Distances 0, 5, 1, their mean 2; and 5, 0, sqrt(18).
    mean = (5 + 18**0.5) / 3
    expected = torch.tensor([[2.0, 0.0, 1.0], [0.0, mean, 0.0]])
    torch.testing.assert_close(triangle(x_AD, centers_KD), expected)
    assert triangle(x_AD, centers_KD[:1]).tolist() == [[0.0], [0.0]]


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32, torch.float64])
def test_the_triangle_does_not_depend_on_chunks_types_or_the_origin(dtype, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    x_AD = torch.randn(1000, 16, generator=generator).half().to(dtype)
    centers_KD = torch.randn(40, 16, generator=generator).half().to(dtype)
    z_AK = (x_AD.double()[:, None] - centers_KD.double()).norm(dim=2)
    expected = (z_AK.mean(1, keepdim=True) - z_AK).clamp(min=0).float()
    code_AK = triangle(x_AD, centers_KD)
    assert code_AK.dtype == torch.float32
    torch.testing.assert_close(code_AK, expected, atol=1e-5, rtol=0)
    module = import_module('mmcoke.clustering.triangle')
    monkeypatch.setattr(module, 'MIN_ROWS', 7)
    monkeypatch.setattr(module, 'SCORES_PER_CHUNK', dict(cpu=1))
    torch.testing.assert_close(triangle(x_AD, centers_KD), expected, atol=1e-5, rtol=0)
    if dtype == torch.float32:  # 1,024 is exact in it, beside numbers of float16
        far = triangle(x_AD + 1024, centers_KD + 1024)
        torch.testing.assert_close(far, expected, atol=1e-3, rtol=0)


def test_a_row_that_is_not_finite_has_no_code():
    x_AD = torch.tensor([[float('nan'), 0.0], [1.0, 0.0]])
    code_AK = triangle(x_AD, torch.eye(2))
    assert code_AK[0].isnan().all() and code_AK[1].isfinite().all()


def test_centers_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r'as wide as the samples .* \(2, 3\) for .* \(4, 2\)'):
        triangle(torch.zeros(4, 2), torch.zeros(2, 3))


# ---- several features beside each other


def test_a_fusion_has_its_parts_at_unit_length_beside_each_other():
    torch.manual_seed(0)
    network = FrozenNetwork(None, resnet18(weights=None).eval(), origin={})
    with torch.no_grad():
        maps = stage_outputs(network.backbone, torch.randn(2, 3, 64, 64))
    third, fourth, fused = (
        feature_of(name)(maps, network) for name in ('stage3', 'stage4', 'stage3+stage4')
    )
    width = third.shape[1]
    assert fused.shape == (2, width + fourth.shape[1])
    torch.testing.assert_close(fused[:, :width], third / third.norm(dim=1, keepdim=True))
    torch.testing.assert_close(fused[:, width:], fourth / fourth.norm(dim=1, keepdim=True))
    assert feature_of('stage3') is FEATURES['stage3']
    with pytest.raises(ValueError, match=r"no feature 'stage7'. Take one of stage0, .* joined by"):
        feature_of('stage3+stage7')


# ---- files


def test_rows_are_written_as_numpy_does(tmp_path):
    x = np.arange(12, dtype=np.float32).reshape(6, 2)
    write_rows(tmp_path / 'x.npy', x.shape, (x[:4], x[4:]))
    np.save(tmp_path / 'y.npy', x)
    assert (tmp_path / 'x.npy').read_bytes() == (tmp_path / 'y.npy').read_bytes()


@pytest.fixture(scope='module')
def network(tmp_path_factory):
    """Config and checkpoint of a tiny network for digits."""
    folder, cfg = tmp_path_factory.mktemp('network'), tiny('coke')
    cfg.train_dataloader.dataset.split = 'test'
    cfg.dump(folder / 'tiny.py')
    for seed in (0, 1):
        torch.manual_seed(seed)
        with DefaultScope.overwrite_default_scope('mmcoke'):
            state = MODELS.build(cfg.model).state_dict()
        torch.save(dict(state_dict=state), folder / f'{seed}.pth')
    return folder


def features(network, out, *options, seed=0):
    """The command, on 540 digits."""
    given = [network / 'tiny.py', network / f'{seed}.pth', '--out', out, '--num-workers', 0]
    main(['features', *map(str, given), '--features', *map(str, options)])
    return open_features(out)


def expected_codes(pooled, centers):
    x = normalize(torch.tensor(pooled), dim=1)
    return triangle(x, centers).numpy()


def test_the_command_encodes_by_clusters_of_the_same_images(network, tmp_path, capsys):
    arrays = features(network, tmp_path / 'a', 'triangle', '--num-clusters', 12)
    assert 'triangle.npy  float32 (540, 12)' in capsys.readouterr().out
    content = read_checkpoint(tmp_path / 'a/triangle_centers.pth')
    centers = content['centers']
    expected = expected_codes(arrays['pooled'], centers)
    np.testing.assert_allclose(arrays['triangle'], expected, atol=1e-6)
    assert 0.2 < (arrays['triangle'] > 0).mean() < 0.8
    # The centers are those of clusters: as near to the images as those of Lloyd's algorithm.
    x = normalize(torch.tensor(arrays['pooled']), dim=1)
    lloyd = kmeans(x, 12, spherical=True).centers
    similarity, reference = ((x @ c.T).amax(1).mean() for c in (centers, lloyd))
    assert 1 - similarity < 1.2 * (1 - reference)


def test_other_images_are_encoded_by_the_same_centers(network, tmp_path):
    features(network, tmp_path / 'a', 'triangle', '--num-clusters', 5)
    path = tmp_path / 'a/triangle_centers.pth'
    options = ('--cfg-options', 'train_dataloader.dataset.split=train')
    other = features(network, tmp_path / 'b', 'triangle', '--centers', path, *options)
    assert len(other['triangle']) == 1257
    expected = expected_codes(other['pooled'], read_checkpoint(path)['centers'])
    np.testing.assert_allclose(other['triangle'], expected, atol=1e-6)
    assert (tmp_path / 'b/triangle_centers.pth').exists()


def test_a_command_that_was_stopped_goes_on_with_its_clusters(network, tmp_path, monkeypatch):
    """Killed while the codes are written: nothing half-made is there, and centers are kept."""

    def stopped(*_):
        yield np.zeros((3, 5), np.float32)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(encodings, 'encoded_parts', stopped)
        with pytest.raises(SystemExit) as end:
            features(network, tmp_path, 'triangle', '--num-clusters', 5)
    assert end.value.code == 130
    assert 'triangle' not in open_features(tmp_path)
    assert not [*tmp_path.glob('*triangle.npy*')]
    centers = read_checkpoint(tmp_path / 'triangle_centers.pth')['centers']
    monkeypatch.setattr(encodings, 'stream_kmeans', None)  # not called again
    arrays = features(network, tmp_path, 'triangle', '--num-clusters', 5)
    expected = expected_codes(arrays['pooled'], centers)
    np.testing.assert_allclose(arrays['triangle'], expected, atol=1e-6)
    monkeypatch.setattr(encodings, 'encoded_parts', None)  # nor are codes made again
    features(network, tmp_path, 'triangle', '--num-clusters', 5)


@pytest.mark.slow
def test_two_processes_write_what_one_does(network, tmp_path):
    one = features(network, tmp_path / 'one', 'triangle', '--num-clusters', 5)
    tool = ['extract_features.py', network / 'tiny.py', network / '0.pth', '--num-workers', 0]
    tool += ['--out', tmp_path / 'two', '--features', 'triangle', '--num-clusters', 5]
    codes, said = fork_ranks(2, *tool, folder=tmp_path)
    assert codes == [0, 0], said[-3000:]
    assert said.count('triangle.npy  float32 (540, 5)') == 1
    two = open_features(tmp_path / 'two')
    np.testing.assert_allclose(two['triangle'], one['triangle'], atol=1e-4)


def test_codes_follow_an_image_that_was_repaired(network, tmp_path):
    """And the centers stay: those of a folder change only where a user removes them."""
    photos, generator = tmp_path / 'photos', np.random.default_rng(0)
    photos.mkdir()
    for number in range(12):
        pixels = generator.integers(256, size=(40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f'{number:02}.png')
    good = (photos / '04.png').read_bytes()
    (photos / '04.png').write_bytes(b'no image')
    options = ('--data-root', photos, '--size', 32, '--num-clusters', 3)
    out = tmp_path / 'out'
    code = features(network, out, 'triangle', *options, '--skip-unreadable')['triangle'].copy()
    assert np.isnan(code).all(1).nonzero()[0].tolist() == [4]
    centers = (out / 'triangle_centers.pth').read_bytes()
    (photos / '04.png').write_bytes(good)
    assert 'triangle' not in features(network, out, 'pooled', *options[:4])
    again = features(network, out, 'triangle', *options)['triangle']
    assert np.isfinite(again).all()
    np.testing.assert_allclose(np.delete(again, 4, 0), np.delete(code, 4, 0), atol=1e-6)
    assert (out / 'triangle_centers.pth').read_bytes() == centers


def test_images_that_were_left_out_and_zeros_do_not_count(network, tmp_path):
    arrays = features(network, tmp_path, 'pooled')
    pooled = arrays['pooled'].copy()
    pooled[3], pooled[7] = np.nan, 0
    np.save(tmp_path / 'pooled.npy', pooled)
    meta = json.loads((tmp_path / 'meta.json').read_text())
    meta['unreadable'] = [3]
    (tmp_path / 'meta.json').write_text(json.dumps(meta))
    centers = encodings.cluster_pooled(tmp_path, 5)
    code = encodings.encode_triangle(tmp_path, centers)['triangle']
    assert centers.isfinite().all() and not (tmp_path / encodings.GOOD_ROWS).exists()
    assert np.isnan(code[3]).all() and not code[7].any()
    assert np.isfinite(np.delete(code, 3, 0)).all()
    good = np.delete(pooled, [3, 7], 0)
    expected = encodings.stream_kmeans(torch.tensor(good), 5, device='cpu').centers
    assert torch.equal(centers, expected)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['triangle'], 'needs --num-clusters K or --centers FILE'),
        (['pooled', '--num-clusters', 5], 'and these need it'),
        (['triangle', '--num-clusters', 1], 'must be at least 2'),
        (['triangle', '--num-clusters', 5, '--centers', 'x'], 'not allowed with'),
        (['stage3+stag4'], 'Did you mean stage4?'),
        (['triangel'], 'Did you mean triangle?'),
        (['triangle+pooled', '--num-clusters', 5], "invalid choice: 'triangle'"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_read(options, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(['features', 'missing.py', 'missing.pth', '--features', *map(str, options)])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_centers_that_do_not_fit_are_refused_before_the_work(network, tmp_path):
    features(network, tmp_path / 'a', 'triangle', '--num-clusters', 5)
    path = tmp_path / 'a/triangle_centers.pth'
    before = {path: path.read_bytes() for path in (tmp_path / 'a').iterdir()}
    torch.save([1], tmp_path / 'list.pth')
    for out, options, seed, message in (
        ('a', ['--num-clusters', 6], 0, 'holds other centers, of 5 clusters. Remove it'),
        ('b', ['--centers', path], 1, r'centers of another network, .*0\.pth'),
        ('b', ['--centers', tmp_path / 'list.pth'], 0, 'holds no centers'),
        ('b', ['--centers', tmp_path / 'missing.pth'], 0, 'No such file'),
        ('b', ['--num-clusters', 541], 0, 'is 541, but there are 540 images'),
    ):
        with pytest.raises(SystemExit, match=message):
            features(network, tmp_path / out, 'triangle', *options, seed=seed)
    assert not (tmp_path / 'b').exists()
    assert before == {path: path.read_bytes() for path in (tmp_path / 'a').iterdir()}
    path.unlink()  # the remedy
    assert features(network, tmp_path / 'a', 'triangle', '--num-clusters', 6)['triangle'].shape == (
        540,
        6,
    )
