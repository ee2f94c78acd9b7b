"""Checkpoints of the published CoKe code, torchvision and timm, converted there and back."""

import os
import runpy
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.registry import init_default_scope
from mmpretrain.models import ResNet, VisionTransformer
from torch import nn

from mmcoke.clustering import UNASSIGNED, AveragedPseudoLabels
from mmcoke.models import PlainConvNet
from mmcoke.registry import MODELS
from mmcoke.weights import coke, convert
from mmcoke.weights import torchvision as layout
from mmcoke.weights.coke import (
    coke_to_mmcoke,
    from_coke,
    mmcoke_to_coke,
    to_coke,
)
from mmcoke.weights.torchvision import export_backbone

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / 'configs/selfsup/coke/coke_r50_8xb64_in1k.py'
NUM_CLUSTERS, NUM_SAMPLES, NUM_SLOTS, DIM = (7, 9), 40, 5, 128
LAYOUTS = ('one_view_stage_1', 'one_view_stage_2', 'two_views_or_more')


class AuthorsNetwork(nn.Module):
    """Encoder, projector and predictor with the published names."""

    def __init__(self, depth, dim):
        super().__init__()
        self.encoder = torchvision.models.get_model(f'resnet{depth}')
        width = self.encoder.fc.in_features
        layers = [*block(width, width), *block(width, width), *block(width, dim)[:2]]
        self.encoder.fc = nn.Sequential(*layers)
        self.predictor = nn.Sequential(*block(dim, width), nn.Linear(width, dim))


def block(fan_in, fan_out):
    return nn.Linear(fan_in, fan_out), nn.BatchNorm1d(fan_out), nn.ReLU()


def random_network(depth, dim):
    """In eval mode, with statistics as after training: else BN would hide an exchange."""
    torch.manual_seed(depth)
    network = AuthorsNetwork(depth, dim).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for x in (module.weight.data, module.running_var):
                x.uniform_(0.5, 1.5)
            for x in (module.bias.data, module.running_mean):
                x.uniform_(-0.2, 0.2)
    return network


def histories():
    """The labels that each sample had in each of 8 epochs of stage 2, at most 5 different ones."""
    generator = torch.Generator().manual_seed(3)
    choice = torch.rand(NUM_SAMPLES, 7, generator=generator).argsort(1)[:, :NUM_SLOTS]
    return choice.gather(1, torch.randint(NUM_SLOTS, (NUM_SAMPLES, 8), generator=generator))


def slot_table(history_AT):
    """What the published code keeps of label histories: slots by first use, empty ones label 1."""
    label = torch.ones(len(history_AT), NUM_SLOTS, dtype=torch.int64)
    weight = torch.zeros(len(history_AT), NUM_SLOTS)
    for row, history in enumerate(history_AT.tolist()):
        for slot, value in enumerate(dict.fromkeys(history)):
            label[row, slot] = value
            weight[row, slot] = history.count(value) / len(history)
    return label, weight, weight.argmin(1)


def average_targets(history_AT, num_clusters, temperature=0.5):
    """Softened shares of the labels in a history, from the definition."""
    share_AK = nn.functional.one_hot(history_AT, num_clusters).float().mean(1)
    return torch.where(share_AK > 0, share_AK / temperature, -torch.inf).softmax(1)


def label_tables(layout):
    """The published label table of all clusterings, and ``label_val`` and ``label_idx``."""
    tables = [slot_table(histories() % k) for k in NUM_CLUSTERS]
    label, weight, next_slot = map(torch.stack, zip(*tables, strict=True))
    if layout == 'one_view_stage_1':
        label[..., 1:] = 1
        return dict(
            assign_labels=label, label_val=weight.zero_(), label_idx=torch.zeros_like(next_slot)
        )
    if layout == 'one_view_stage_2':
        return dict(assign_labels=label, label_val=weight, label_idx=next_slot)
    return dict(assign_labels=label[..., 0].contiguous())


def published_state(weights, layout):
    """Weights and clustering state with the published names."""
    generator = torch.Generator().manual_seed(5)
    dim, state = len(weights['encoder.fc.6.bias']), dict(weights)
    for i, k in enumerate(NUM_CLUSTERS):
        for name in ('pre_center', 'cur_center'):
            state[f'{name}_{i}'] = torch.randn(dim, k, generator=generator)
        state[f'dual_{i}'] = torch.rand(k, generator=generator)
        state[f'counter_{i}'] = torch.full((k,), 3.0)  # stale: of the first epoch
    return state | label_tables(layout)


def published(state, prefix='module.'):
    """A checkpoint as the published code saves it."""
    return dict(
        epoch=801,
        arch='resnet50',
        state_dict={prefix + name: x for name, x in state.items()},
        optimizer=dict(state={0: dict(momentum_buffer=torch.zeros(2))}, param_groups=[{'lr': 1.6}]),
    )


def recipe(layout):
    """CoKe from the recipe's config, with the clusterings of the test files."""
    cfg = Config.fromfile(CONFIG)
    cfg.model.clustering.num_clusters = list(NUM_CLUSTERS)
    if layout == 'two_views_or_more':
        cfg.model.clustering.average_from_epoch = None
    init_default_scope('mmcoke')
    model = MODELS.build(cfg.model)
    model.init_labelers(NUM_SAMPLES)
    return model.eval()


def read(path):
    return torch.load(path, weights_only=True)


def averaged(state, head):
    """The table of a labeler that averages."""
    table = AveragedPseudoLabels(NUM_SAMPLES, NUM_CLUSTERS[head], NUM_SLOTS)
    prefix = f'labelers.{head}.labels.'
    table.load_state_dict({k.removeprefix(prefix): x for k, x in state.items() if prefix in k})
    return table


def published_targets(state, head, temperature=0.5):
    """Soft targets of a published table: weights of equal labels add up, then exp."""
    weight_AK = torch.zeros(NUM_SAMPLES, NUM_CLUSTERS[head])
    weight_AK.scatter_add_(1, state['assign_labels'][head], state['label_val'][head])
    return torch.where(weight_AK > 0, weight_AK / temperature, -torch.inf).softmax(1)


everyone = torch.arange(NUM_SAMPLES)


# the recipe's network


@pytest.fixture(scope='module')
def network():
    return random_network(50, DIM)


@pytest.fixture(scope='module')
def converted_file(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp('resnet50')
    state = published_state(network.state_dict(), 'one_view_stage_2')
    torch.save(published(state), folder / 'authors.pth.tar')
    coke_to_mmcoke(folder / 'authors.pth.tar', folder / 'ours.pth')
    return folder / 'ours.pth'


@pytest.fixture(scope='module')
def model(converted_file):
    model = recipe('one_view_stage_2')
    model.load_state_dict(read(converted_file)['state_dict'], strict=True)
    return model


@pytest.mark.parametrize('depth', layout.DEPTHS)
def test_mmpretrain_names_and_shapes_of_resnets_are_those_of_torchvision(depth):
    ours = ResNet(depth=depth).state_dict()
    assert {name: x.shape for name, x in ours.items()} == layout.resnet_shapes(depth)


@pytest.fixture(scope='module')
def images():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_features_equal_torchvision_bit_for_bit(model, network, images):
    encoder = network.encoder
    trunk = nn.Sequential(*(layer for name, layer in encoder.named_children() if name not in TOP))
    assert torch.equal(model.backbone(images)[-1], trunk(images))


TOP = ('avgpool', 'fc')


@torch.no_grad()
def test_projections_and_predictions_equal_the_authors_bit_for_bit(model, network, images):
    projection = network.encoder(images)
    assert torch.equal(model.project(images), projection)
    assert torch.equal(model.head.predictor((projection,))[0], network.predictor(projection))


@pytest.mark.parametrize('prefix', ['module.', ''])
@pytest.mark.parametrize('layout', LAYOUTS)
def test_every_layout_loads_strictly_into_the_recipe(network, layout, prefix):
    state = published_state(network.state_dict(), layout)
    ours = from_coke(published(state, prefix))['state_dict']
    model = recipe(layout)
    model.load_state_dict(ours, strict=True)
    types = {name: x.dtype for name, x in model.state_dict().items()}
    assert {name: x.dtype for name, x in ours.items()} == types


# clustering state


@pytest.fixture(scope='module')
def weights():
    """Weights around a ResNet-18 with a small projection: quick to handle."""
    return random_network(18, 8).state_dict()


@pytest.fixture(scope='module', params=LAYOUTS)
def theirs(request, weights):
    return published_state(weights, request.param)


def test_centers_are_transposed_duals_kept_and_stale_counts_set_to_0(theirs):
    ours = from_coke(published(theirs))['state_dict']
    for i in range(len(NUM_CLUSTERS)):
        kmeans = f'labelers.{i}.kmeans.'
        assert torch.equal(ours[f'{kmeans}centers'], theirs[f'pre_center_{i}'].T)
        assert torch.equal(ours[f'{kmeans}running'], theirs[f'cur_center_{i}'].T)
        assert torch.equal(ours[f'{kmeans}dual'], theirs[f'dual_{i}'])
        assert ours[f'{kmeans}count'].dtype == torch.int64
        assert not ours[f'{kmeans}count'].any()


def test_labels_of_two_views_and_more_are_kept(weights):
    theirs = published_state(weights, 'two_views_or_more')
    ours = from_coke(published(theirs))
    assert ours['meta']['num_slots'] is None
    for i in range(len(NUM_CLUSTERS)):
        label = ours['state_dict'][f'labelers.{i}.labels.label']
        assert label.dtype == torch.int8
        assert torch.equal(label.long(), theirs['assign_labels'][i])


def test_labels_of_one_view_in_stage_1_are_those_of_the_first_slot(weights):
    theirs = published_state(weights, 'one_view_stage_1')
    ours = from_coke(published(theirs))
    assert (ours['meta']['stage'], ours['meta']['num_slots']) == (1, NUM_SLOTS)
    for i in range(len(NUM_CLUSTERS)):
        table = averaged(ours['state_dict'], i)
        assert torch.equal(table.newest.read(everyone), theirs['assign_labels'][i, :, 0])
        assert (table.older == UNASSIGNED).all()
        assert not table.weight.any()


def test_average_targets_of_stage_2_are_those_of_the_label_histories(weights):
    ours = from_coke(published(published_state(weights, 'one_view_stage_2')))
    assert ours['meta']['stage'] == 2
    for i, k in enumerate(NUM_CLUSTERS):
        targets = averaged(ours['state_dict'], i).read(everyone)
        assert torch.allclose(targets, average_targets(histories() % k, k), atol=1e-6)


def slots_from(label, weight, next_slot):
    """Converted slots of one sample: labels, newest first, and weights."""
    rows = torch.tensor([label]), torch.tensor([weight]), torch.tensor([next_slot])
    table = coke.slots_from_coke(*rows)
    labels = [*table['newest.label'].tolist(), *table['older'][0].tolist()]
    return labels, (table['weight'][0] / AveragedPseudoLabels.WEIGHT_SCALE).tolist()


def test_the_heaviest_slot_counts_as_the_newest_and_empty_ones_lose_their_label_1():
    labels, weights = slots_from([4, 6, 1, 1], [0.25, 0.75, 0.0, 0.0], 2)
    assert labels == [6, 4, UNASSIGNED, UNASSIGNED]
    assert weights == [0.75, 0.25, 0, 0]


def test_of_equal_weights_the_slot_that_is_replaced_next_comes_last():
    labels, _ = slots_from([4, 6, 8, 2], [0.4, 0.2, 0.2, 0.2], 1)
    assert labels == [4, 8, 2, 6]


def test_the_weight_of_label_1_that_was_split_over_slots_is_added_up():
    labels, weights = slots_from([1, 5, 1, 1], [0.25, 0.25, 0.0, 0.5], 2)
    assert labels == [1, 5, UNASSIGNED, UNASSIGNED]
    assert weights == [0.75, 0.25, 0, 0]


def test_a_sample_that_stage_2_has_not_seen_keeps_the_label_of_its_first_slot():
    assert slots_from([4, 1, 1], [0.0, 0.0, 0.0], 0) == ([4, UNASSIGNED, UNASSIGNED], [0, 0, 0])


def test_weights_without_clustering_state_are_enough(weights):
    ours = from_coke(published(weights))
    assert ours['meta']['num_clusters'] == []
    assert not any(name.startswith('labelers.') for name in ours['state_dict'])
    assert {f'module.{name}' for name in weights} == set(to_coke(ours)['state_dict'])


def test_centers_without_a_label_table_are_kept(weights):
    theirs = published_state(weights, 'two_views_or_more')
    del theirs['assign_labels']
    ours = from_coke(published(theirs))
    labelers = {name.split('.')[2] for name in ours['state_dict'] if name.startswith('labelers.')}
    assert labelers == {'kmeans'}
    assert to_coke(ours)['state_dict'].keys() == published(theirs)['state_dict'].keys()


# there and back


def test_round_trip_from_the_authors_is_exact(theirs):
    there = from_coke(published(theirs))
    back = to_coke(there)
    assert (back['epoch'], back['arch']) == (801, 'resnet18')
    state = {name.removeprefix('module.'): x for name, x in back['state_dict'].items()}
    assert state.keys() == theirs.keys()
    for name, x in state.items():
        expected = torch.zeros_like(x) if name.startswith('counter') else theirs[name]
        assert x.dtype == expected.dtype
        if name in ('label_val', 'label_idx') or (name == 'assign_labels' and x.ndim == 3):
            continue
        assert torch.equal(x, expected), name
    if theirs.get('label_val', torch.zeros(1)).any():
        for i in range(len(NUM_CLUSTERS)):
            targets = published_targets(state, i), published_targets(theirs, i)
            assert torch.allclose(*targets, atol=1e-6)
    elif 'label_val' in theirs:
        assert torch.equal(state['assign_labels'], theirs['assign_labels'])
        assert not state['label_val'].any() and not state['label_idx'].any()


def test_round_trip_from_ours_is_exact(theirs):
    ours = from_coke(published(theirs))
    again = from_coke(to_coke(ours))
    assert again['meta'] == ours['meta']
    assert again['state_dict'].keys() == ours['state_dict'].keys()
    for name, x in ours['state_dict'].items():
        assert torch.equal(again['state_dict'][name], x), name


def test_averages_written_after_the_conversion_replace_the_slot_the_authors_would():
    history = torch.tensor([[2, 2, 3, 4, 5, 6, 3, 4]])  # 5 and 6 weigh least; 5 goes
    label, weight, next_slot = slot_table(history)
    assert label[0, next_slot[0]] == 5
    table = AveragedPseudoLabels(1, 9, NUM_SLOTS)
    state = coke.slots_from_coke(label, weight, next_slot)
    table.load_state_dict({name: x.to(table.state_dict()[name]) for name, x in state.items()})
    table.write(torch.tensor([0]), torch.tensor([7]), 9)
    assert 5 not in [*table.older[0].tolist(), table.newest.label[0].item()]


def test_a_sample_without_label_gets_the_label_of_the_published_code(weights):
    ours = from_coke(published(published_state(weights, 'two_views_or_more')))
    ours['state_dict']['labelers.0.labels.label'][7] = UNASSIGNED
    assert to_coke(ours)['state_dict']['module.assign_labels'][0, 7] == 1


# files that are refused


def without(*names):
    return lambda state: {name: x for name, x in state.items() if name not in names}


def with_entry(name, change):
    return lambda state: state | {name: change(state.get(name))}


WRONG = {
    'weight missing': (without('encoder.layer1.0.bn1.weight'), 'lacks layer1.0.bn1.weight'),
    'projector missing': (without('encoder.fc.3.weight'), 'lacks encoder.fc.3.weight'),
    'predictor missing': (without('predictor.0.weight'), 'predictor.0.weight missing'),
    'centers missing': (without('pre_center_1'), 'lacks pre_center_1'),
    'duals missing': (without('dual_0'), 'lacks dual_0'),
    'labels missing': (without('assign_labels'), 'lacks assign_labels'),
    'slots missing': (without('label_idx'), 'lacks label_idx'),
    'all centers missing': (
        without('pre_center_0', 'pre_center_1', 'cur_center_0', 'cur_center_1'),
        'lacks pre_center_0, cur_center_0, pre_center_1 and 1 more',
    ),
    'left over': (with_entry('queue', lambda _: torch.ones(3)), 'has besides queue'),
    'left over layer': (with_entry('predictor.9.bias', lambda _: torch.ones(3)), 'predictor.9'),
    'other width': (with_entry('encoder.conv1.weight', lambda x: x[:, :2]), r'\(64, 2, 7, 7\)'),
    'other shape': (with_entry('dual_1', lambda x: x[:4]), r'dual_1 of shape \(4,\)'),
    'a head missing': (
        without('pre_center_0', 'cur_center_0', 'dual_0', 'counter_0'),
        'lacks pre_center_0, cur_center_0, dual_0 and 1 more',
    ),
    'flat labels': (with_entry('assign_labels', torch.flatten), r'\(400,\): not of CoKe'),
    'not a cluster': (with_entry('assign_labels', lambda x: x + 3), 'but it has 7 clusters'),
    'no weights': (with_entry('label_val', lambda x: x / 0), 'label_val'),
}


@pytest.mark.parametrize('case', WRONG)
def test_a_wrong_file_is_refused_with_what_is_wrong(weights, case):
    change, message = WRONG[case]
    state = change(published_state(weights, 'one_view_stage_2'))
    with pytest.raises(ValueError, match=message):
        from_coke(published(state))


def test_a_torchvision_file_is_refused_with_what_is_missing(weights):
    encoder = {n.removeprefix('encoder.'): x for n, x in weights.items() if '.fc.' not in n}
    with pytest.raises(ValueError, match=r"'state_dict' with tensors is missing.*conv1.weight"):
        from_coke(encoder)
    with pytest.raises(ValueError, match=r'encoder.fc.0.weight, .* missing. It has conv1'):
        from_coke(dict(state_dict=encoder))


def test_what_is_missing_in_ours_is_named(weights):
    ours = from_coke(published(published_state(weights, 'one_view_stage_1')))
    for name in ('neck.bn1.bias', 'labelers.1.kmeans.dual', 'labelers.0.labels.older'):
        state = without(name)(ours['state_dict'])
        with pytest.raises(ValueError, match=f'lacks {name}'):
            to_coke(dict(state_dict=state))


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path):
    torch.save(published(dict(a=Payload(tmp_path / 'ran'))), tmp_path / 'evil.pth.tar')
    with pytest.raises(ValueError, match=r'evil.pth.tar is refused: it holds .*mkdir'):
        coke_to_mmcoke(tmp_path / 'evil.pth.tar', tmp_path / 'ours.pth')
    assert os.listdir(tmp_path) == ['evil.pth.tar']


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('kept', [0.0, 0.5, 0.999])
def test_a_truncated_file_is_named(tmp_path, weights, zipped, kept):
    path = tmp_path / 'half.pth.tar'
    torch.save(published(weights), path, _use_new_zipfile_serialization=zipped)
    os.truncate(path, int(kept * path.stat().st_size))
    with pytest.raises(ValueError, match=r'half.pth.tar cannot be read .* cut off'):
        coke_to_mmcoke(path, tmp_path / 'ours.pth')
    assert os.listdir(tmp_path) == ['half.pth.tar']


def test_files_of_old_torch_are_read(tmp_path, weights):
    torch.save(published(weights), tmp_path / 'a.tar', _use_new_zipfile_serialization=False)
    assert '150 of 150 keys matched' in coke_to_mmcoke(tmp_path / 'a.tar', tmp_path / 'b.pth')


def test_a_conversion_writes_the_same_bytes_again(tmp_path, weights):
    torch.save(published(weights), tmp_path / 'a.tar')
    for name in ('b.pth', 'c.pth'):
        coke_to_mmcoke(tmp_path / 'a.tar', tmp_path / name)
    assert (tmp_path / 'b.pth').read_bytes() == (tmp_path / 'c.pth').read_bytes()


def test_checkpoints_with_the_log_history_of_mmengine_are_read(tmp_path, weights):
    ours = from_coke(published(weights)) | dict(message_hub=HistoryBuffer([0.5], [1]))
    torch.save(ours, tmp_path / 'a.pth')
    mmcoke_to_coke(tmp_path / 'a.pth', tmp_path / 'b.pth.tar')
    assert read(tmp_path / 'b.pth.tar').keys() == {'epoch', 'arch', 'state_dict'}


def test_a_conversion_does_not_overwrite_its_source(tmp_path, weights):
    torch.save(published(weights), tmp_path / 'a.pth')
    with pytest.raises(ValueError, match='would be overwritten'):
        coke_to_mmcoke(tmp_path / 'a.pth', tmp_path / 'a.pth')


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / 'ours.pth'
    target.write_text('old')

    def fail(path):
        path.write_text('half')
        raise OSError('no space left')

    with pytest.raises(OSError, match='no space left'):
        convert.write_whole(target, fail)
    assert (os.listdir(tmp_path), target.read_text()) == (['ours.pth'], 'old')


# backbones for torchvision and timm


def test_the_exported_backbone_loads_strictly_into_torchvision(converted_file, tmp_path, network):
    assert export_backbone(converted_file, tmp_path / 'resnet.pth') == 50
    state = read(tmp_path / 'resnet.pth')
    model = torchvision.models.resnet50()
    assert model.load_state_dict(state, strict=False) == (['fc.weight', 'fc.bias'], [])
    model.fc = nn.Identity()
    model.load_state_dict(state, strict=True)
    assert all(torch.equal(x, network.state_dict()[f'encoder.{n}']) for n, x in state.items())


def test_the_exported_names_are_those_of_timm():
    """As in timm's ResNet, written out: so it is tested where timm is not installed."""

    def norm(name):
        parts = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')
        return {f'{name}.{part}' for part in parts}

    names = {'conv1.weight'} | norm('bn1')
    for stage, num_blocks in enumerate((3, 4, 6, 3), 1):
        for i in range(num_blocks):
            for j in (1, 2, 3):
                layer = f'layer{stage}.{i}'
                names |= {f'{layer}.conv{j}.weight'} | norm(f'{layer}.bn{j}')
        shortcut = f'layer{stage}.0.downsample'
        names |= {f'{shortcut}.0.weight'} | norm(f'{shortcut}.1')
    assert names == layout.resnet_shapes(50).keys()


@torch.no_grad()
@pytest.mark.parametrize('safetensors', [False, True])
def test_timm_loads_the_exported_backbone(weights, tmp_path, images, safetensors):
    timm = pytest.importorskip('timm', reason='timm is not installed')
    if safetensors:
        pytest.importorskip('safetensors', reason='safetensors is not installed')
    torch.save(from_coke(published(weights)), tmp_path / 'a.pth')
    path = tmp_path / ('b.safetensors' if safetensors else 'b.pth')
    export_backbone(tmp_path / 'a.pth', path, safetensors=safetensors)
    model = timm.create_model('resnet18', num_classes=0, checkpoint_path=str(path)).eval()
    theirs = torchvision.models.resnet18()
    theirs.fc = nn.Identity()
    theirs.load_state_dict(backbone_of(weights))
    assert torch.equal(model(images), theirs.eval()(images))


def backbone_of(weights):
    return {
        name.removeprefix('encoder.'): x
        for name, x in weights.items()
        if name.startswith('encoder.') and '.fc.' not in name
    }


def test_safetensors_hold_the_same_tensors(weights, tmp_path):
    safetensors = pytest.importorskip('safetensors.torch', reason='safetensors is not installed')
    torch.save(from_coke(published(weights)), tmp_path / 'a.pth')
    export_backbone(tmp_path / 'a.pth', tmp_path / 'b.safetensors', safetensors=True)
    state, expected = safetensors.load_file(tmp_path / 'b.safetensors'), backbone_of(weights)
    assert state.keys() == expected.keys()
    assert all(torch.equal(x, expected[name]) for name, x in state.items())


def test_without_safetensors_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'safetensors.torch', None)
    with pytest.raises(ImportError, match='pip install safetensors'):
        export_backbone(tmp_path / 'a.pth', tmp_path / 'b.safetensors', safetensors=True)


def test_other_backbones_are_refused_with_their_first_unexpected_name(weights):
    ours = from_coke(published(weights))['state_dict']
    arch = dict(embed_dims=8, num_layers=1, num_heads=1, feedforward_channels=8)
    for backbone in (VisionTransformer(arch, img_size=32), PlainConvNet()):
        state = {f'backbone.{name}': x for name, x in backbone.state_dict().items()}
        first = next(iter(backbone.state_dict()))
        message = f'ResNet-18, ResNet-34, ResNet-50, .* has besides {first}'
        with pytest.raises(ValueError, match=message):
            layout.backbone_state(dict(state_dict=state))
        neck_and_head = {n: x for n, x in ours.items() if not n.startswith('backbone.')}
        with pytest.raises(ValueError, match=message):
            to_coke(dict(state_dict=state | neck_and_head))


def test_a_wider_resnet_is_refused_by_its_shapes():
    with torch.device('meta'):
        wide = torchvision.models.wide_resnet50_2().state_dict()
    state = {f'backbone.{name}': x for name, x in without('fc.weight', 'fc.bias')(wide).items()}
    message = r'compared with ResNet-50, has layer1.0.conv1.weight of shape \(128, 64, 1, 1\)'
    with pytest.raises(ValueError, match=message):
        layout.backbone_state(dict(state_dict=state))


def test_a_published_file_cannot_be_exported_directly(weights):
    with pytest.raises(ValueError, match=r'coke_to_mmcoke.py first'):
        layout.backbone_state(published(weights))


# the command line


@pytest.fixture
def tool(monkeypatch):
    def run(name, *args):
        path = str(ROOT / 'tools/model_converters' / f'{name}.py')
        monkeypatch.setattr(sys, 'argv', [path, *map(str, args)])
        runpy.run_path(path, run_name='__main__')

    return run


def test_the_tools_convert_and_say_what_they_found(tmp_path, weights, tool, capsys):
    source = tmp_path / 'a.pth.tar'
    torch.save(published(published_state(weights, 'one_view_stage_2')), source)
    tool('coke_to_mmcoke', source, tmp_path / 'new/ours.pth')
    printed = capsys.readouterr().out
    assert '161 of 161 keys matched: resnet18 after 801 epochs, stage 2' in printed
    assert 'num_clusters=[7, 9], average_from_epoch=<an epoch>, num_slots=5' in printed
    tool('mmcoke_to_coke', tmp_path / 'new/ours.pth', tmp_path / 'back.pth.tar')
    assert '161 keys: resnet18 after 801 epochs' in capsys.readouterr().out
    tool('mmcoke_to_torchvision', tmp_path / 'new/ours.pth', tmp_path / 'tv.pth', '--timm')
    assert "timm.create_model('resnet18', num_classes=0" in capsys.readouterr().out
    assert list(read(tmp_path / 'tv.pth')) == list(backbone_of(weights))


def test_the_tools_end_with_a_message_that_names_the_file(tmp_path, tool):
    for name in ('coke_to_mmcoke', 'mmcoke_to_coke', 'mmcoke_to_torchvision'):
        with pytest.raises(SystemExit, match=r'error: .*absent.pth'):
            tool(name, tmp_path / 'absent.pth', tmp_path / 'out.pth')
