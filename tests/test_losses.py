from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from mmcoke.losses import coke_loss, multi_view_coke_loss

GOLDEN = Path(__file__).parent / 'golden/losses.npz'


@pytest.mark.parametrize(
    ('name', 'target'), [('single_hard', 'label'), ('single_soft', 'soft_label')]
)
def test_single_view_loss_equals_the_published_one(name, target):
    golden = {key: torch.from_numpy(value) for key, value in np.load(GOLDEN).items()}
    heads = range(len(golden['K']))
    loss = coke_loss(
        golden['proj'][0],
        golden['pred'][0],
        [golden[f'center_{j}'] for j in heads],
        [golden[f'{target}_{j}'] for j in heads],
        temperature=0.1,
        prediction_weight=0.7,
    )
    assert loss.item() == pytest.approx(golden[name].item(), abs=1e-5)


def multi_view(golden, num_views):
    heads = range(len(golden['K']))
    return multi_view_coke_loss(
        list(golden['proj'][:num_views]),
        list(golden['pred'][:num_views]),
        [golden[f'center_{j}'] for j in heads],
        [golden[f'label_{j}'] for j in heads],
        temperature=0.05,
        label_weight=0.2,
    )


def test_two_view_loss_equals_the_published_one():
    golden = {key: torch.from_numpy(value) for key, value in np.load(GOLDEN).items()}
    losses = multi_view(golden, 2)
    assert set(losses) == {'loss_full'}
    assert losses['loss_full'].item() == pytest.approx(golden['double'].item(), abs=1e-5)


def test_multi_crop_losses_equal_the_published_ones():
    golden = {key: torch.from_numpy(value) for key, value in np.load(GOLDEN).items()}
    losses = {name: loss.item() for name, loss in multi_view(golden, 8).items()}
    assert losses['loss_full'] == pytest.approx(golden['multi_large'].item(), abs=1e-5)
    assert losses['loss_small'] == pytest.approx(golden['multi_small'].item(), abs=1e-5)
    assert sum(losses.values()) / 2 == pytest.approx(golden['multi'].item(), abs=1e-5)


def test_soft_targets_of_the_other_view_get_no_gradient():
    views = [normalize(torch.randn(4, 3), dim=1).requires_grad_() for _ in range(2)]
    predictions = [normalize(torch.randn(4, 3), dim=1) for _ in range(2)]
    centers = [normalize(torch.randn(5, 3), dim=1)]
    options = dict(temperature=0.1, prediction_weight=1.0, label_weight=0.2)
    loss = multi_view_coke_loss(views, predictions, centers, [torch.arange(4)], **options)
    assert not loss['loss_full'].requires_grad


def test_with_prediction_weight_one_the_projection_gets_no_gradient():
    projection, prediction = (
        normalize(torch.randn(4, 3), dim=1).requires_grad_() for _ in range(2)
    )
    centers = [normalize(torch.randn(5, 3), dim=1)]
    loss = coke_loss(projection, prediction, centers, [torch.arange(4)], temperature=0.1)
    loss.backward()
    assert projection.grad is None
    assert prediction.grad.abs().sum() > 0


def test_loss_is_float32_under_autocast():
    x = normalize(torch.randn(4, 3), dim=1).bfloat16()
    with torch.autocast('cpu', torch.bfloat16):
        loss = coke_loss(x, x, [torch.eye(3)], [torch.tensor([0, 1, 2, 0])], temperature=0.1)
    assert loss.dtype == torch.float32
