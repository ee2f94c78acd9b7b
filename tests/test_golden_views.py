"""One training iteration with several views equals the authors' (see tests/golden/README.md)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmengine.structures import BaseDataElement
from torch import nn
from torch.nn.functional import cosine_similarity

from mmcoke.registry import MODELS

GOLDEN = Path(__file__).parent / 'golden'
RECORDS = ('two_views_train_mode', 'multi_crop_train_mode')
OURS = {
    'encoder.conv': 'backbone.conv',
    'encoder.bn': 'backbone.bn',
    **{f'encoder.fc.{3 * i}': f'neck.fc{i}' for i in range(3)},
    **{f'encoder.fc.{3 * i + 1}': f'neck.bn{i}' for i in range(3)},
    'predictor.0': 'head.predictor.fc0',
    'predictor.1': 'head.predictor.bn0',
    'predictor.3': 'head.predictor.fc1',
}


class TinyEncoder(nn.Module):
    """The encoder of the records, in front of the projector."""

    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x):
        return (torch.relu(self.bn(self.conv(x))),)


def arrays(golden, prefix):
    """Arrays of a record by the names of our parameters and buffers."""
    found = {}
    for key in golden.files:
        if key.startswith(prefix):
            module, _, name = key.removeprefix(prefix).rpartition('.')
            found[f'{OURS[module]}.{name}'] = torch.from_numpy(golden[key])
    return found


def build(golden, **options):
    init_default_scope('mmcoke')
    weights = arrays(golden, 'weight.')
    norm_cfg = dict(type='BN1d')
    dim, width = weights['neck.fc2.weight'].shape
    model = MODELS.build(
        dict(
            type='CoKe',
            backbone=dict(type=TinyEncoder, width=weights['backbone.conv.weight'].shape[0]),
            neck=dict(
                type='NonLinearNeck',
                hid_channels=width,
                out_channels=dim,
                num_layers=3,
                with_bias=True,
                with_last_bias=True,
                norm_cfg=norm_cfg,
            ),
            head=dict(
                type='CoKeHead',
                in_channels=dim,
                hid_channels=weights['head.predictor.fc0.weight'].shape[0],
                norm_cfg=norm_cfg,
                **{
                    name: float(golden[name])
                    for name in ('temperature', 'prediction_weight', 'label_weight', 'small_weight')
                },
            ),
            clustering=dict(
                num_clusters=golden['K'].tolist(),
                dual_lr=float(golden['dual_lr']),
                min_ratio=float(golden['min_ratio']),
            ),
            **options,
        )
    )
    model.load_state_dict(weights)
    model.init_labelers(len(golden['labels_before_0']))
    for head, labeler in enumerate(model.labelers):
        for centers in (labeler.kmeans.centers, labeler.kmeans.running):
            centers.copy_(torch.from_numpy(golden[f'init_center_{head}']))
        labeler.labels.assign_all(torch.from_numpy(golden[f'labels_before_{head}']))
        labeler.set_epoch(1)
    return model.train()


def iterate(golden, **options):
    """The model and its losses after one iteration on a record's views."""
    model = build(golden, **options)
    names = sorted((name for name in golden.files if name.startswith('view_')), key=view_number)
    samples = [
        BaseDataElement(metainfo=dict(sample_idx=int(target))) for target in golden['targets']
    ]
    losses = model.loss([torch.from_numpy(golden[name]) for name in names], samples)
    losses['loss'].backward()
    return model, losses


def view_number(name):
    return int(name.removeprefix('view_'))


@pytest.fixture(params=RECORDS)
def golden(request):
    return np.load(GOLDEN / f'{request.param}.npz')


def test_loss_and_all_gradients_are_the_published_ones(golden):
    model, losses = iterate(golden)
    assert losses['loss'].item() == pytest.approx(float(golden['loss']), rel=1e-6)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    expected = arrays(golden, 'grad.')
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=3e-5, msg=name)


def test_batch_norm_has_seen_each_view_on_its_own(golden):
    model, _ = iterate(golden)
    buffers = dict(model.named_buffers())
    expected = arrays(golden, 'after.')
    assert len(expected) == 3 * 5  # mean, variance and count of five layers
    for name, value in expected.items():
        torch.testing.assert_close(buffers[name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_labels_duals_and_centers_are_the_published_ones(golden):
    model, _ = iterate(golden)
    for head, labeler in enumerate(model.labelers):
        labels = torch.from_numpy(golden[f'labels_after_{head}'])
        assert torch.equal(labeler.newest.label.long(), labels)
        for name, value in (('dual', labeler.kmeans.dual), ('cur_center', labeler.kmeans.running)):
            expected = torch.from_numpy(golden[f'{name}_after_{head}'])
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)


def test_joint_views_share_their_statistics_and_so_are_another_method(golden):
    model, losses = iterate(golden, joint_views=True)
    sizes = {golden[name].shape[-1] for name in golden.files if name.startswith('view_')}
    assert int(model.backbone.bn.num_batches_tracked) == len(sizes)
    assert abs(losses['loss'].item() - float(golden['loss'])) > 0.05
    ours = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    expected = arrays(golden, 'grad.')
    theirs = torch.cat([expected[name].flatten() for name, _ in model.named_parameters()])
    assert cosine_similarity(ours, theirs, dim=0) < 0.9
