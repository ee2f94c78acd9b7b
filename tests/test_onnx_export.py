"""Backbones as ONNX files."""

import runpy
import sys
import warnings

import numpy as np
import pytest
import torch
import torchvision
from conftest import CONFIGS, ROOT, tiny
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import nn

from mmcoke import FeatureExtractor, onnx_export
from mmcoke.cli.main import main
from mmcoke.features.onnx_export import export_onnx
from mmcoke.registry import MODELS

onnx = pytest.importorskip('onnx')
onnxruntime = pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')

OURS = CONFIGS / 'coke/coke_r18_1xb256_folder.py'
THEIRS = 'mmpretrain::resnet/resnet18_8xb32_in1k.py'
TOOL = ROOT / 'tools/model_converters/export_onnx.py'


def extractor_of(cfg, folder, **options):
    """With random weights and statistics, so that an exchange would show."""
    with DefaultScope.overwrite_default_scope('mmcoke'):
        torch.manual_seed(0)
        backbone = MODELS.build(cfg.model.backbone)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    state = {f'backbone.{name}': x for name, x in backbone.state_dict().items()}
    torch.save(dict(state_dict=state), folder / 'weights.pth')
    return FeatureExtractor(cfg, folder / 'weights.pth', device='cpu', progress=False, **options)


def read_config(name):
    from mmcoke.features.backbones import read_config

    return read_config(name)


def sobel():
    cfg = Config.fromfile(CONFIGS / 'deepcluster/deepcluster-sobel_r50_8xb64_in1k.py')
    cfg.model.backbone.depth = 18
    return cfg


def vit():
    cfg = Config.fromfile(CONFIGS / 'coke/coke_vit-small-p16_8xb64_in1k.py')
    cfg.model.backbone.update(arch=dict(VIT), img_size=64)
    return cfg


VIT = dict(embed_dims=48, num_layers=2, num_heads=3, feedforward_channels=96)
NETWORKS = {
    'RGB': (lambda: read_config(OURS), dict(size=64), (70, 64, 64, 3)),
    'BGR': (lambda: read_config(THEIRS), dict(size=64), (5, 64, 64, 3)),
    'Sobel': (sobel, dict(size=64), (5, 64, 64, 3)),
    'ViT': (vit, dict(size=64), (5, 64, 64, 3)),
    'digits': (lambda: tiny('coke'), {}, (5, 16, 16)),
}


@pytest.mark.parametrize(('cfg', 'options', 'shape'), NETWORKS.values(), ids=NETWORKS)
def test_onnxruntime_gives_the_features_of_the_extractor(cfg, options, shape, tmp_path):
    """The images have the size before the crop, so that only the crop changes them."""
    extractor = extractor_of(cfg(), tmp_path, **options)
    assert export_onnx(extractor, tmp_path / 'net.onnx') < 1e-5
    larger = (shape[0], 73, 73, *shape[3:]) if options else shape
    images = np.random.default_rng(0).integers(0, 255, larger, dtype=np.uint8)
    cropped = images[:, 4:68, 4:68] if options else images  # 73 is 64 * 8/7
    session = onnxruntime.InferenceSession(tmp_path / 'net.onnx')
    for number in (1, len(images)):
        (found,) = session.run(None, {'images': cropped[:number]})
        want = extractor(images[:number])
        np.testing.assert_allclose(found, want, atol=1e-4 * np.abs(want).max())


def test_the_file_says_what_it_takes_and_not_where_it_was_made(tmp_path):
    extractor = extractor_of(tiny('coke'), tmp_path)
    export_onnx(extractor, tmp_path / 'net.onnx')
    model = onnx.load(tmp_path / 'net.onnx')
    onnx.checker.check_model(model)
    facts = {item.key: item.value for item in model.metadata_props}
    assert facts['input'] == 'uint8, grey, (n, 16, 16); normalized in the graph'
    assert facts['checkpoint'] == 'weights.pth' and facts['feature'] == 'pooled'
    data = (tmp_path / 'net.onnx').read_bytes()
    assert str(tmp_path).encode() not in data and str(ROOT).encode() not in data
    assert sorted(path.name for path in tmp_path.iterdir()) == ['net.onnx', 'weights.pth']


def test_a_network_that_differs_is_not_written(tmp_path, monkeypatch):
    extractor = extractor_of(tiny('coke'), tmp_path)

    class Slightly(onnx_export.FeatureNetwork):
        def forward(self, images):
            return super().forward(images) * 1.001

    monkeypatch.setattr(onnx_export, 'FeatureNetwork', Slightly)
    with pytest.raises(ValueError, match=r'net.onnx was not written.*1\.0e-03'):
        export_onnx(extractor, tmp_path / 'net.onnx')
    assert [path.name for path in tmp_path.iterdir()] == ['weights.pth']


def test_a_network_on_a_gpu_is_refused(tmp_path):
    extractor = extractor_of(tiny('coke'), tmp_path)
    extractor.device = torch.device('cuda')
    with pytest.raises(ValueError, match='network on the CPU'):
        export_onnx(extractor, tmp_path / 'net.onnx')


def test_missing_packages_are_named(tmp_path, monkeypatch):
    extractor = extractor_of(tiny('coke'), tmp_path)
    monkeypatch.setitem(sys.modules, 'onnxscript', None)
    with pytest.raises(ImportError, match=r'onnxscript is missing.*mmcoke\[onnx\]'):
        export_onnx(extractor, tmp_path / 'net.onnx')


def test_missing_packages_are_named_before_the_network_is_loaded(monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnx', None)
    with pytest.raises(SystemExit, match=r'^error: onnx is missing\. Install'):
        main(['export', 'onnx', 'absent.py', 'absent.pth', 'net.onnx'])


def test_the_tool_exports_a_checkpoint_of_torchvision(tmp_path, monkeypatch, capsys):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / 'resnet18.pth')
    argv = [TOOL, OURS, tmp_path / 'resnet18.pth', tmp_path / 'net.onnx', '--size', 64]
    monkeypatch.setattr(sys, 'argv', [str(arg) for arg in argv])
    with warnings.catch_warnings():
        runpy.run_path(str(TOOL), run_name='__main__')
    assert 'net.onnx. Largest difference from PyTorch: ' in capsys.readouterr().out
    facts = onnxruntime.InferenceSession(tmp_path / 'net.onnx').get_modelmeta()
    assert facts.custom_metadata_map['resize'].startswith('shorter side to 73, bilinear')
