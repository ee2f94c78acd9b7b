from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from mmcoke.losses import coke_loss

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
