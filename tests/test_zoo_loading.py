"""The model zoo where OpenMMLab's users meet it: ``init_cfg``, and mmpretrain's hub."""

import hashlib
from dataclasses import replace

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.model import BaseModule, PretrainedInit
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import DefaultScope
from mmpretrain import get_model, list_models
from mmpretrain.models import ResNet

import mmcoke
from mmcoke.datasets.in_memory import load_split
from mmcoke.evaluation import knn_classify
from mmcoke.zoo import index, register_models

NAME = 'coke_r18_test'


@pytest.fixture(scope='module')
def network():
    torch.manual_seed(0)
    return ResNet(18, base_channels=8, stem_channels=8)


@pytest.fixture
def in_zoo(tmp_path, monkeypatch):
    """Puts a checkpoint into the zoo, as one that comes with the package."""

    def put(state, name=NAME):
        path = tmp_path / f'{name}.pth'
        torch.save(dict(state_dict=state), path)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        source = index.Source('shipped', str(path), path.name, sha256)
        entry = replace(index.find('coke_r50_8xb64_in1k'), name=name, aliases=(), source=source)
        entry = replace(entry, layout='mmcoke')
        found = (*index.entries(), entry)
        monkeypatch.setattr(index, 'entries', lambda: found)

    return put


def algorithm(network, **others):
    """State of an algorithm that has the network as its backbone."""
    return {f'backbone.{n}': x for n, x in network.state_dict().items()} | others


def backbone(scope, checkpoint=f'mmcoke://{NAME}', **init_cfg):
    """A backbone that a config of that scope would build, with its weights."""
    with DefaultScope.overwrite_default_scope(scope):
        cfg = dict(type='mmpretrain.ResNet', depth=18, base_channels=8, stem_channels=8)
        init_cfg = dict(type='Pretrained', checkpoint=checkpoint) | init_cfg
        built = ROOT_MODELS.build(dict(cfg, init_cfg=init_cfg))
        built.init_weights()
    return built


def assert_equal(a, b):
    torch.testing.assert_close(a.state_dict(), b.state_dict(), rtol=0, atol=0)


@pytest.fixture
def log(caplog):
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.mark.parametrize('scope', ['mmengine', 'mmpretrain', 'mmcoke', 'mmselfsup'])
@pytest.mark.parametrize('init_cfg', [dict(prefix='backbone.'), dict(prefix='backbone'), {}])
def test_pretrained_loads_and_counts_in_any_scope(scope, init_cfg, network, in_zoo, log):
    in_zoo(algorithm(network, **{'head.fc.weight': torch.ones(3)}))
    assert_equal(backbone(scope, **init_cfg), network)
    wanted = [n for n in network.state_dict() if not n.endswith('num_batches_tracked')]
    assert f'{len(wanted)} of {len(wanted)} backbone keys matched' in log.text


def test_the_prefix_chooses_among_several_networks(network, in_zoo):
    other = {f'momentum.{n}': x + 1 for n, x in network.state_dict().items()}
    in_zoo(algorithm(network, **other))
    found = backbone('mmpretrain', prefix='momentum.')
    torch.testing.assert_close(found.conv1.weight, network.conv1.weight + 1, rtol=0, atol=0)


def test_below_90_percent_it_stops(network, in_zoo):
    state = algorithm(network)
    in_zoo({name: x for name, x in state.items() if 'layer4' not in name})
    with pytest.raises(ValueError, match=r'Only \d+ of \d+ backbone keys matched in mmcoke://'):
        backbone('mmpretrain', prefix='backbone.')


def test_a_prefix_that_is_not_there_stops(network, in_zoo):
    in_zoo(algorithm(network))
    with pytest.raises(ValueError, match=r"No name .* begins with 'encoder\.'; it has backbone\."):
        backbone('mmpretrain', prefix='encoder.')


def test_unknown_names_get_suggestions():
    with pytest.raises(ValueError, match=r'no .coke_r50_2vew_1000e.*coke_r50_2view_1000e'):
        backbone('mmpretrain', checkpoint='mmcoke://coke_r50_2vew_1000e')


def test_other_checkpoints_are_loaded_as_before(network, tmp_path):
    torch.save(algorithm(network), tmp_path / 'own.pth')
    path = str(tmp_path / 'own.pth')
    assert_equal(backbone('mmpretrain', checkpoint=path, prefix='backbone.'), network)


def test_a_part_of_a_network_may_be_initialized(network, in_zoo):
    """As the RoI head of a C4 detector, which is the last stage alone."""

    class SharedHead(BaseModule):
        def __init__(self):
            super().__init__()
            self.layer4 = ResNet(18, base_channels=8, stem_channels=8).layer4

    in_zoo(algorithm(network))
    head = SharedHead()
    PretrainedInit(f'mmcoke://{NAME}', prefix='backbone.')(head)
    assert_equal(head.layer4, network.layer4)


SHIPPED = [entry.name for entry in index.entries() if entry.source.kind == 'shipped']


def test_every_method_has_a_model_that_comes_with_the_package():
    assert {index.find(name).method for name in SHIPPED} == {
        'CoKe',
        'DeepCluster',
        'DeepClusterV2',
        'ODC',
        'SeCu',
        'SeLa',
        'SelfLabel',
        'SwAV',
    }


@pytest.mark.parametrize('name', SHIPPED)
def test_shipped_models_reach_the_figures_of_their_entries(name):
    """Their backbones, as far as the figure is of the backbone: kNN, k = 20."""
    extractor = mmcoke.FeatureExtractor(name, progress=False)
    sets = [load_split('digits', split) for split in ('train', 'test')]
    x, x_test = (torch.from_numpy(extractor(images)) for images, _ in sets)
    y, y_test = (torch.from_numpy(labels) for _, labels in sets)
    found = (knn_classify(x, y, x_test, k=20) == y_test).double().mean().item()
    (figure,) = (x for x in index.find(name).measured if x.task == 'kNN')
    assert found == pytest.approx(figure.metrics['Top 1 Accuracy'], abs=0.0025)


# ---- mmpretrain's hub


def test_mmpretrain_lists_the_models_of_the_zoo():
    register_models()
    register_models()
    found = list_models('*coke*')
    assert {'coke_r50_8xb64_in1k', 'coke_r50_2view_1000e'} <= set(found)
    assert 'odc_r50_8xb64_in1k' in list_models('odc*')


def test_mmpretrain_builds_every_model():
    register_models()
    for entry in index.entries():
        if entry.layout == 'mmpretrain':
            continue
        model = get_model(entry.name)
        assert type(model).__module__.startswith('mmcoke.models')
        assert model._metainfo.name == entry.name


def test_pretrained_weights_come_from_the_zoo():
    register_models()
    for name in SHIPPED:
        state = torch.load(index.find(name).source.address, weights_only=True)['state_dict']
        found = get_model(name, pretrained=True).state_dict()
        # Some were made when augmentation had buffers, which are no weights.
        state = {key: x for key, x in state.items() if not key.startswith('data_preprocessor.')}
        assert any(key.startswith('backbone.') for key in state)
        for key, x in state.items():
            torch.testing.assert_close(found[key], x, rtol=0, atol=0)


def test_a_recipe_without_weights_is_built_with_a_warning():
    register_models()
    with pytest.warns(UserWarning, match='Unable to find pre-defined checkpoint'):
        get_model('deepcluster_r50_8xb64_in1k', pretrained=True)


def test_other_names_work_in_the_hub_too():
    register_models()
    assert get_model('coke_r50_1view_1000e')._metainfo.name == 'coke_r50_8xb64_in1k'
