"""Detection and segmentation: the configs, and a checkpoint's way into their networks."""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import BaseModule, initialize
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS, MODELS, DefaultScope
from mmengine.runner import IterBasedTrainLoop
from mmpretrain.models import ResNet
from torch import nn
from torchvision.models.resnet import BasicBlock

import mmcoke.engine  # noqa: F401 (the file backend that configs name)
from mmcoke.models import StrictPretrained
from mmcoke.weights.torchvision import export_backbone, resnet_shapes

CONFIGS = Path(__file__).resolve().parent.parent / 'configs/benchmarks'
SHARED_HEAD = 'roi_head.shared_head'
RESNET = dict(backbone='c1f7fd3808aa49e7afb0ec26ebebafda398d447a68e9547c34a3d6fc8945c74c')
C4 = {
    'backbone': '07172d9231c251c32c5f68c9819590c01bb1719bf84a2a75562dd88642774efb',
    SHARED_HEAD: 'a472a434e11c48a665fc8215ec9b8874ad04591a852dd1d53ee398798ac05079',
}
GOLDEN = {
    'mmdetection/voc0712/faster-rcnn_r50-c4_ms-24k_voc0712.py': C4,
    'mmdetection/coco/mask-rcnn_r50-c4_ms-1x_coco.py': C4,
    'mmdetection/coco/mask-rcnn_r50_fpn_ms-1x_coco.py': RESNET,
    'mmsegmentation/voc12aug/fcn_r50-d8_4xb4-20k_voc12aug-512x512.py': RESNET,
}
"""Digests of names and shapes in what mmdet 3.3.0 and mmseg 1.2.2 build from the configs."""

PARTS = [(config, part) for config, parts in GOLDEN.items() for part in parts]
MEAN = [123.675, 116.28, 103.53]


def test_every_config_is_recorded():
    found = [p.relative_to(CONFIGS).as_posix() for p in CONFIGS.glob('mm*/*/*.py')]
    assert sorted(found) == sorted(GOLDEN)


def own_part(config):
    """A config without its base, which only mmdet or mmseg have."""
    lines = (CONFIGS / config).read_text().splitlines()
    kept = [line for line in lines if not line.startswith(('_base_', 'custom_imports'))]
    assert len(kept) < len(lines)
    return Config.fromstring('\n'.join(kept), '.py')


@pytest.mark.parametrize('config', GOLDEN)
def test_every_part_of_the_network_names_a_checkpoint_that_must_be_given(config):
    model = own_part(config).model
    for part in GOLDEN[config]:
        init_cfg = model.backbone if part == 'backbone' else model.roi_head.shared_head
        assert init_cfg.init_cfg.type == 'mmcoke.StrictPretrained'
        assert init_cfg.init_cfg.checkpoint is None
    if SHARED_HEAD in GOLDEN[config]:
        assert model.data_preprocessor.mean == MEAN  # the bases have those of Caffe
        assert model.data_preprocessor.bgr_to_rgb
        assert model.roi_head.shared_head.init_cfg.new == ['norm.']


def digest(shapes):
    lines = sorted(f'{name} {tuple(shape)}' for name, shape in shapes.items())
    return hashlib.sha256('\n'.join(lines).encode()).hexdigest()


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    """ResNet-50 of an algorithm's checkpoint as tools/model_converters exports it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp('exported')
    weights = {f'backbone.{name}': x for name, x in ResNet(depth=50).state_dict().items()}
    torch.save(dict(state_dict=weights | {'neck.fc.weight': torch.zeros(2)}), folder / 'ours.pth')
    export_backbone(folder / 'ours.pth', folder / 'exported.pth')
    return folder / 'exported.pth'


@pytest.mark.parametrize(('config', 'part'), PARTS)
def test_the_exported_backbone_has_the_names_of_mmdetection(exported, config, part):
    state = torch.load(exported, weights_only=True)
    assert {name: x.shape for name, x in state.items()} == resnet_shapes(50)
    in_head = SHARED_HEAD in GOLDEN[config]
    shapes = {
        name: x.shape
        for name, x in state.items()
        if not in_head or name.startswith('layer4') == (part == SHARED_HEAD)
    }
    if part == SHARED_HEAD:
        norm = nn.BatchNorm2d(2048).state_dict()
        shapes |= {f'norm.{name}': x.shape for name, x in norm.items()}
    assert digest(shapes) == GOLDEN[config][part]


# ---- where mmdetection and mmsegmentation are installed


@pytest.mark.parametrize('config', GOLDEN)
def test_the_network_is_built_and_loads_strictly(exported, config):
    library = 'mmdet' if 'mmdetection' in config else 'mmseg'
    pytest.importorskip('mmcv.ops', exc_type=ImportError)
    pytest.importorskip(f'{library}.models', exc_type=ImportError)
    cfg = Config.fromfile(CONFIGS / config)
    options = {f'model.{part}.init_cfg.checkpoint': str(exported) for part in GOLDEN[config]}
    cfg.merge_from_dict(options)
    with DefaultScope.overwrite_default_scope(library):
        model = MODELS.build(cfg.model)
        model.init_weights()
    state = torch.load(exported, weights_only=True)
    loaded = set()
    for part, recorded in GOLDEN[config].items():
        found = model.get_submodule(part).state_dict()
        assert digest({name: x.shape for name, x in found.items()}) == recorded
        own = {name for name in found if not name.startswith('norm.')}
        assert all(torch.equal(found[name], state[name]) for name in own)
        loaded |= own
    assert loaded == set(state)
    assert model.data_preprocessor.mean.flatten().tolist() == pytest.approx(MEAN)
    assert all(x.requires_grad for x in model.parameters())


@pytest.mark.parametrize('config', GOLDEN)
def test_the_scores_are_written_for_the_model_zoo(config, tmp_path):
    hook = HOOKS.build(own_part(config).default_hooks.results)
    model, weights = nn.Linear(1, 1), 'torchvision://resnet50'
    model.backbone = BaseModule(dict(type='mmcoke.StrictPretrained', checkpoint=weights))
    # A loader with a batch sampler of its own has no batch size.
    loader = SimpleNamespace(
        batch_size=None, batch_sampler=SimpleNamespace(batch_size=2), dataset=[0] * 7
    )
    runner = SimpleNamespace(
        cfg=SimpleNamespace(filename=config),
        work_dir=tmp_path,
        model=model,
        train_loop=IterBasedTrainLoop.__new__(IterBasedTrainLoop),
        train_dataloader=loader,
        val_dataloader=SimpleNamespace(dataset=[0] * 3),
        optim_wrapper=OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.02)),
        iter=24000,
        logger=MMLogger.get_current_instance(),
    )
    hook.before_train(runner)
    hook.after_val_epoch(runner, {})  # of a detector that finds nothing
    assert not list(tmp_path.iterdir())
    hook.after_val_epoch(runner, {'pascal_voc/mAP': 0.5, 'pascal_voc/AP50': 0.75})
    found = json.loads((tmp_path / f'{Path(config).stem}.json').read_text())
    row = dict(mAP=0.5, AP50=0.75, iterations=24000, batch=2, learning_rate='0.02')
    row |= dict(num_train=7, num_val=3)
    assert found['rows'] == [row]
    assert found['protocol'].endswith('Weights: torchvision://resnet50.')
    assert found['checkpoint'] is None


# ---- StrictPretrained


def network(blocks=(1, 1, 1, 1), seed=0):
    """A small ResNet with the names of all libraries, random statistics included."""
    torch.manual_seed(seed)
    net = torchvision.models.ResNet(BasicBlock, list(blocks), num_classes=2)
    for x in net.buffers():
        x += torch.rand_like(x, dtype=torch.float).to(x.dtype)
    return net


def parts(net, *names):
    """Some children of a network, under their names."""
    module = BaseModule()
    for name in names:
        module.add_module(name, net.get_submodule(name))
    return module


STEM = ('conv1', 'bn1')
STAGES = ('layer1', 'layer2', 'layer3', 'layer4')


@pytest.fixture
def source():
    return network(seed=1)


@pytest.fixture
def weights(source, tmp_path):
    torch.save(source.state_dict(), tmp_path / 'weights.pth')
    return str(tmp_path / 'weights.pth')


def equal(module, source):
    state = source.state_dict()
    return all(torch.equal(x, state[name]) for name, x in module.state_dict().items())


@pytest.mark.parametrize(
    'names', [STEM + STAGES, STEM + STAGES[:3], STAGES[3:]], ids=['all', 'c4', 'shared_head']
)
def test_a_part_of_the_network_gets_all_its_weights(weights, source, names):
    module = parts(network(), *names)
    StrictPretrained(weights)(module)
    assert equal(module, source)


LAYOUTS = {
    'ours': lambda state: dict(state_dict={f'backbone.{k}': x for k, x in state.items()}),
    'momentum': lambda state: dict(
        state_dict={f'teacher.{k}': x + 1 for k, x in state.items()}
        | {f'backbone.{k}': x for k, x in state.items()}
    ),
    'published MoCo': lambda state: dict(
        state_dict={f'module.encoder_q.{k}': x for k, x in state.items()}
    ),
    'without counters': lambda state: {k: x for k, x in state.items() if 'num_batches' not in k},
}


@pytest.mark.parametrize('layout', LAYOUTS)
def test_checkpoints_need_no_conversion(source, tmp_path, layout):
    torch.save(LAYOUTS[layout](source.state_dict()), tmp_path / 'other.pth')
    module = parts(network(), *STEM, *STAGES)
    for name, x in module.named_buffers():
        if 'num_batches' in name:
            x.copy_(source.state_dict()[name])
    StrictPretrained(str(tmp_path / 'other.pth'))(module)
    assert equal(module, source)


def test_a_deeper_network_lacks_weights(weights):
    module = parts(network((2, 1, 1, 1)), *STEM, *STAGES)
    with pytest.raises(
        ValueError, match=r'weights\.pth does not fit BaseModule .* it lacks layer1\.1\.'
    ):
        StrictPretrained(weights)(module)


def test_a_shallower_network_is_refused_too(tmp_path):
    torch.save(network((1, 1, 2, 1)).state_dict(), tmp_path / 'deep.pth')
    module = parts(network(), *STEM, *STAGES[:3])
    before = module.layer3[0].conv1.weight.clone()
    with pytest.raises(ValueError, match=r'has besides layer3\.1\.'):
        StrictPretrained(str(tmp_path / 'deep.pth'))(module)
    assert torch.equal(module.layer3[0].conv1.weight, before)


def test_another_number_of_channels_is_refused(weights):
    net = network()
    net.conv1 = nn.Conv2d(2, 64, 7, bias=False)  # of Sobel filters
    with pytest.raises(ValueError, match=r'conv1\.weight of shape \(64, 3, 7, 7\) instead of'):
        StrictPretrained(weights)(parts(net, *STEM, *STAGES))


def test_weights_of_something_else_are_refused(tmp_path):
    torch.save({'fc.weight': torch.zeros(2)}, tmp_path / 'other.pth')
    with pytest.raises(ValueError, match='lacks conv1'):
        StrictPretrained(str(tmp_path / 'other.pth'))(parts(network(), *STEM))


def test_only_what_is_new_in_the_module_stays_as_it_was(weights, source):
    module = parts(network(), 'layer4')
    module.norm = nn.BatchNorm2d(512)
    with pytest.raises(ValueError, match=r'lacks norm\.weight'):
        StrictPretrained(weights)(module)
    StrictPretrained(weights, new=['norm.'])(module)
    assert equal(module.layer4, source.layer4)
    assert torch.equal(module.norm.weight, torch.ones(512))


def test_a_checkpoint_that_was_not_given_is_asked_for(source):
    with pytest.raises(ValueError, match=r'model\.backbone\.init_cfg\.checkpoint=PATH'):
        StrictPretrained(None)(parts(source, *STEM))


@pytest.mark.parametrize('scope', ['mmengine', 'mmcoke'])
def test_configs_of_other_libraries_find_it(weights, source, scope):
    module = parts(network(), *STEM, *STAGES)
    module.init_cfg = dict(type='mmcoke.StrictPretrained', checkpoint=weights)
    with DefaultScope.overwrite_default_scope(scope):
        module.init_weights()
    assert equal(module, source)


def test_backbones_of_mmpretrain_are_refused(weights):
    # They set the last norm of each block to 0 after initializers they do not know.
    init_cfg = dict(type='mmcoke.StrictPretrained', checkpoint=weights)
    backbone = ResNet(depth=18, init_cfg=init_cfg)
    with pytest.raises(ValueError, match=r'mmcoke\.PretrainedClassifier'):
        initialize(backbone, init_cfg)
