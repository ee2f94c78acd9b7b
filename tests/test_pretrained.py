"""``init_cfg=dict(type="Pretrained")``: weights are counted; what does not fit is refused."""

import pytest
import torch
import torchvision
from mmengine.model import PretrainedInit
from mmengine.registry import MODELS, DefaultScope
from mmpretrain.models import ResNet, VisionTransformer
from torch import nn

SMALL = dict(base_channels=8, stem_channels=8)
SCOPES = pytest.mark.parametrize('scope', ['mmengine', 'mmpretrain', 'mmcoke'])


@pytest.fixture(scope='module')
def network():
    torch.manual_seed(0)
    return ResNet(18, **SMALL)


@pytest.fixture
def saved(tmp_path):
    """Saves weights, and gives the path."""

    def save(state, name='a.pth'):
        torch.save(dict(state_dict=state), tmp_path / name)
        return str(tmp_path / name)

    return save


def named(prefix, module):
    return {prefix + name: x for name, x in module.state_dict().items()}


def backbone(path, scope='mmpretrain', depth=18, kind='Pretrained', **init_cfg):
    """A backbone with the weights of a file, as a config of that scope gets it."""
    with DefaultScope.overwrite_default_scope(scope):
        cfg = dict(type='mmpretrain.ResNet', depth=depth, **SMALL)
        init_cfg = dict(type=kind, checkpoint=path) | init_cfg
        built = MODELS.build(dict(cfg, init_cfg=init_cfg))
        built.init_weights()
    return built


def assert_equal(a, b):
    torch.testing.assert_close(a.state_dict(), b.state_dict(), rtol=0, atol=0)


@SCOPES
@pytest.mark.parametrize('kind', ['Pretrained', PretrainedInit])
@pytest.mark.parametrize('prefix', ['backbone.', 'module.encoder.', ''])
def test_the_prefix_of_a_local_file_is_found(scope, kind, prefix, network, saved):
    path = saved(named(prefix, network) | {'head.fc.weight': torch.ones(2)})
    assert_equal(backbone(path, scope, kind=kind), network)


def test_one_initializer_of_several_leaves_no_zeroed_layers(network, saved):
    """mmpretrain zeroes the last batch norm of each block unless it finds 'Pretrained' alone."""
    cfgs = [dict(type='Kaiming', layer='Conv2d')]
    cfgs.append(dict(type='Pretrained', checkpoint=saved(named('', network))))
    found = ResNet(18, init_cfg=cfgs, **SMALL)
    found.init_weights()
    assert_equal(found, network)


def test_a_scoped_name_is_refused_because_layers_are_initialized_afterwards(network, saved):
    path = saved(named('', network))
    with pytest.raises(ValueError, match=r"Write type='Pretrained' instead of 'mmengine\."):
        backbone(path, kind='mmengine.Pretrained')


@SCOPES
def test_a_file_of_something_else_is_refused(scope, saved):
    path = saved({'decoder.layers.weight': torch.ones(3)})
    with pytest.raises(ValueError, match=r'Only 0 of \d+ backbone keys matched .*decoder\.layers'):
        backbone(path, scope)


@pytest.mark.parametrize(('inside', 'wanted'), [(18, 50), (34, 50), (50, 101), (50, 18)])
def test_weights_of_another_depth_are_refused(inside, wanted, saved):
    path = saved(named('backbone.', ResNet(inside, **SMALL)))
    with pytest.raises(ValueError, match=rf'backbone keys matched .*ResNet {wanted}'):
        backbone(path, depth=wanted)


def test_a_stage_that_is_missing_is_refused(network, saved):
    state = {n: x for n, x in named('', network).items() if not n.startswith('layer4')}
    with pytest.raises(ValueError, match=r'missing: layer4'):
        backbone(saved(state))


def test_a_wrong_prefix_is_refused_with_what_there_is(network, saved):
    path = saved(named('backbone.', network))
    with pytest.raises(ValueError, match=r"begins with 'encoder\.'; it has backbone\.conv1"):
        backbone(path, prefix='encoder')


def test_vision_transformers_still_resize_their_positions(saved):
    settings = dict(arch='deit-tiny', patch_size=16)
    path = saved(named('backbone.', VisionTransformer(img_size=64, **settings)))
    init_cfg = dict(type='Pretrained', checkpoint=path)
    found = VisionTransformer(img_size=96, init_cfg=init_cfg, **settings)
    found.init_weights()
    state = torch.load(path, weights_only=True)['state_dict']
    assert found.pos_embed.shape == (1, 37, 192)
    assert torch.equal(found.pos_embed[:, 0], state['backbone.pos_embed'][:, 0])
    assert torch.equal(found.layers[3].ln1.weight, state['backbone.layers.3.ln1.weight'])


def classifier(num_classes, path=None):
    """A whole model of mmpretrain, with or without weights."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = dict(
            type='ImageClassifier',
            backbone=dict(type='ResNet', depth=18, **SMALL),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=num_classes, in_channels=64),
        )
        if path is not None:
            model['init_cfg'] = dict(type='Pretrained', checkpoint=path)
        built = MODELS.build(model)
        built.init_weights()
    return built


@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_a_whole_model_may_have_another_head(prefix, saved):
    other = classifier(5)
    found = classifier(7, saved(named(prefix, other)))
    assert_equal(found.backbone, other.backbone)
    assert_equal(classifier(5, saved(named(prefix, other))), other)


def test_a_whole_model_without_weights_for_its_backbone_is_refused(network, saved):
    with pytest.raises(ValueError, match=r'Only 0 of \d+ backbone keys .*backbone\.init_cfg='):
        classifier(5, saved(named('', network)))


def test_files_of_torchvision_are_read_as_they_are(tmp_path):
    torch.manual_seed(1)
    theirs = torchvision.models.resnet18()
    torch.save(theirs.state_dict(), tmp_path / 'resnet18.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'resnet18.pth'))
    found = ResNet(18, init_cfg=init_cfg)
    found.init_weights()
    assert torch.equal(found.layer4[1].conv2.weight, theirs.layer4[1].conv2.weight)


def test_a_plain_module_is_loaded_by_its_own_names(saved):
    """As heads and necks have it."""
    module, other = nn.Linear(2, 3), nn.Linear(2, 3)
    PretrainedInit(saved(named('neck.fc.', other)), prefix='neck.fc')(module)
    assert_equal(module, other)
