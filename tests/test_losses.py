from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from mmcoke.losses import coke_loss, multi_view_coke_loss
from mmcoke.losses.coke_loss import cross_entropies

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


def plain_losses(x_BnD, centers, targets, temperature, references, label_weight):
    """The loop that the docstring of cross_entropies has."""
    losses = []
    for x_nD, others in zip(x_BnD, references, strict=True):
        total = 0
        for c_KD, target in zip(centers, targets, strict=True):
            if target.ndim == 1:
                target = torch.nn.functional.one_hot(target, len(c_KD)).float()
            goal = label_weight * target
            for b in others:
                p = (x_BnD[b].detach() @ c_KD.T / temperature).softmax(1)
                goal = goal + (1 - label_weight) * p / len(others)
            total = total + cross_entropy(x_nD @ c_KD.T / temperature, goal)
        losses.append(total / len(centers))
    return torch.stack(losses)


@pytest.mark.parametrize('chunk_size', [None, 1, 5, 100])
@pytest.mark.parametrize('temperature', [0.01, 0.05, 1.0])
@pytest.mark.parametrize('kinds', ['hard', 'soft', 'mixed'])
def test_losses_in_one_product_equal_the_loop(kinds, temperature, chunk_size):
    generator = torch.Generator().manual_seed(0)
    sizes, num = [7, 30, 12], 12
    x_BnD = torch.randn(6, num, 16, generator=generator)
    centers = [normalize(torch.randn(k, 16, generator=generator), dim=1) for k in sizes]
    hard = [torch.randint(k, (num,), generator=generator) for k in sizes]
    soft = [torch.randn(num, k, generator=generator).softmax(1) for k in sizes]
    targets = dict(hard=hard, soft=soft, mixed=[hard[0], soft[1], hard[2]])[kinds]
    for references, label_weight in (None, 1.0), ([(1,), (0,), (0, 1)] * 2, 0.3):
        x_BnD.requires_grad_()
        unit = normalize(x_BnD, dim=2)
        options = dict(temperature=temperature, label_weight=label_weight)
        loss_B = cross_entropies(
            unit, centers, targets, references=references, chunk_size=chunk_size, **options
        )
        expected_B = plain_losses(
            unit, centers, targets, references=references or [()] * 6, **options
        )
        torch.testing.assert_close(loss_B, expected_B, rtol=1e-5, atol=1e-5)
        weight_B = torch.arange(1.0, 7)
        grads = [
            torch.autograd.grad(loss @ weight_B, x_BnD, retain_graph=True)[0]
            for loss in (loss_B, expected_B)
        ]
        torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


def test_the_gradient_is_that_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    x = normalize(torch.randn(1, 1, 3, generator=generator), dim=2).requires_grad_()
    centers = [normalize(torch.randn(4, 3, generator=generator), dim=1)]
    target = [torch.tensor([2])]
    (grad,) = torch.autograd.grad(cross_entropies(x, centers, target, temperature=0.5)[0], x)
    for d in range(3):
        step = torch.zeros(3).index_fill_(0, torch.tensor(d), 1e-2)
        up, down = (
            cross_entropies(x + s * step, centers, target, temperature=0.5) for s in (1, -1)
        )
        assert ((up - down) / 2e-2).item() == pytest.approx(grad[0, 0, d].item(), abs=1e-3)
