"""What CoKe may borrow: an EMA target, repulsion of centers, nested clusterings."""

import math
from contextlib import nullcontext

import pytest
import torch
from conftest import tiny
from mmengine.registry import init_default_scope
from torch import nn
from torch.nn.functional import normalize

from mmcoke.clustering import CoKeLabeler, OnlineConstrainedKMeans
from mmcoke.clustering.online_kmeans import pushed_apart
from mmcoke.engine.launch import train
from mmcoke.files import read_checkpoint
from mmcoke.losses import coke_loss
from mmcoke.losses.coke_loss import cluster_logits, multi_view_coke_loss
from mmcoke.models.moving_average import MovingAverage
from mmcoke.registry import MODELS

MOMENTUM = {'model.type': 'MomentumCoKe', 'model.momentum': 0.9}
NESTED = {'model.head.type': 'NestedCoKeHead', 'model.clustering.dim': [2, 8]}


def units(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator), dim=-1)


def model_of(**options):
    init_default_scope('mmcoke')
    torch.manual_seed(0)
    cfg = tiny('coke')
    cfg.merge_from_dict(options)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.init_labelers(40)
    return model.train()


# ---- repulsion


def test_two_centers_are_pushed_apart_by_hand():
    """Each is all that the other sees: p = 1, so the gradients are 2 c_2 and 2 c_1."""
    pushed = pushed_apart(torch.eye(2), 0.5)
    torch.testing.assert_close(pushed, torch.tensor([[1.0, -1.0], [-1.0, 1.0]]) / math.sqrt(2))
    assert torch.equal(pushed_apart(torch.eye(2)[:1], 0.5), torch.eye(2)[:1])


def test_repulsion_is_a_gradient_step_of_the_uniformity_of_centers():
    centers = units(12, 5).requires_grad_()
    others = ~torch.eye(12, dtype=torch.bool)
    similarity = (centers @ centers.T).masked_fill(~others, -torch.inf)
    objective = 0.1 * (similarity / 0.1).logsumexp(1).sum()
    objective.backward()
    expected = normalize(centers.detach() - 0.3 * centers.grad, dim=1)
    torch.testing.assert_close(pushed_apart(centers.detach(), 0.3, 0.1), expected)


def test_centers_are_pushed_apart_when_they_are_published():
    plain = OnlineConstrainedKMeans(4, 6, min_ratio=0.4, dual_lr=1.0)
    pushed = OnlineConstrainedKMeans(4, 6, min_ratio=0.4, dual_lr=1.0, repulsion=0.2)
    for kmeans in (plain, pushed):
        kmeans.set_epoch(0)
        x = units(30, 6)
        kmeans.update(x, kmeans.assign(x))
        kmeans.end_epoch()
    torch.testing.assert_close(pushed.centers, pushed_apart(plain.centers, 0.2))
    assert torch.equal(pushed.running, pushed.centers)
    assert not torch.allclose(pushed.centers, plain.centers)


# ---- nested clusterings


def test_a_nested_head_clusters_the_first_dimensions_normalized_again():
    nested = CoKeLabeler(50, [4, 6, 9], [2, 4, 8], min_ratio=0.5, dual_lr=1.0, seed=3)
    alone = [
        CoKeLabeler(50, k, d, min_ratio=0.5, dual_lr=1.0, seed=3 + head)
        for head, (k, d) in enumerate(zip([4, 6, 9], [2, 4, 8], strict=True))
    ]
    assert [c.shape for c in nested.centers] == [(4, 2), (6, 4), (9, 8)]
    assert set(nested.state_dict()) == set(nn.ModuleList(alone).state_dict())
    for epoch in range(3):
        for labeler in (nested, *alone):
            labeler.set_epoch(epoch)
        for number in range(2):
            x, idx = units(25, 8, seed=epoch), torch.arange(25) + 25 * number
            targets = nested.step(x, idx, slice(5, 20))
            for target, labeler in zip(targets, alone, strict=True):
                first = x[:, : labeler.kmeans.dim]
                first = first / first.norm(dim=1, keepdim=True)
                assert torch.equal(target, labeler.step(first, idx, slice(5, 20)))
        for labeler in (nested, *alone):
            labeler.end_epoch()
    for name, value in nn.ModuleList(alone).state_dict().items():
        assert torch.equal(nested.state_dict()[name], value)


def test_the_nested_loss_is_the_mean_over_the_clusterings():
    model = model_of(**NESTED, **{'model.clustering.num_clusters': [4, 6]})
    projection, prediction = (torch.randn(16, 8, requires_grad=True) for _ in range(2))
    targets = [torch.arange(16) % 4, torch.arange(16) % 6]
    loss = model.head.loss([projection], [prediction], model.labelers.centers, targets)['loss']
    expected = [
        coke_loss(
            normalize(projection[:, :width], dim=1),
            normalize(prediction[:, :width], dim=1),
            [centers],
            [target],
            temperature=model.head.temperature,
            prediction_weight=model.head.prediction_weight,
        )
        for width, centers, target in zip([2, 8], model.labelers.centers, targets, strict=True)
    ]
    torch.testing.assert_close(loss, sum(expected) / 2)


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        ({'model.clustering.dim': [4, 8]}, 'NestedCoKeHead'),
        ({'model.head.type': 'NestedCoKeHead'}, r'\[4, 8\]'),
        ({'model.clustering.dim': 4}, 'leave both out'),
        (NESTED | {'model.clustering.dim': [4, 9]}, r'in \[1, 8\]'),
    ],
)
def test_dimensions_that_do_not_fit_the_head_are_refused(change, said):
    with pytest.raises(ValueError, match=said) as caught:
        model_of(**change)
    assert len(str(caught.value).splitlines()) == 1


def test_each_nested_clustering_needs_a_dimension():
    with pytest.raises(ValueError, match='2 clusterings, num_clusters the clusters of 3'):
        CoKeLabeler(50, [4, 5, 6], [2, 4])
    with pytest.raises(ValueError, match=r'\(N, 4\) or wider'):
        CoKeLabeler(50, [4, 5], [2, 4]).step(units(3, 3), torch.arange(3))


# ---- EMA target


def test_the_average_by_hand():
    network = nn.Linear(1, 1, bias=False)
    average = MovingAverage(network, 0.75)
    seen = []
    for value in (1.0, 2.0, 4.0):
        nn.init.constant_(network.weight, value)
        average.follow(network)
        seen.append(average.network.weight.item())
    assert seen == [1.0, 1.25, 1.9375]  # taken over; 0.75 * 1 + 0.25 * 2; 0.75 * 1.25 + 0.25 * 4
    assert not any(p.requires_grad for p in average.parameters())


def test_what_is_clustered_comes_from_the_average():
    model = model_of(**MOMENTUM)
    images, idx = torch.randn(20, 1, 16, 16), torch.arange(20)
    model.loss(images, idx)['loss'].backward()
    assert all(p.grad is None for p in model.target.parameters())
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p), alpha=0.05)
    seen, given = [], []
    model.labelers.step = lambda x, *_: seen.append(x) or [torch.zeros(20, dtype=torch.int64)] * 2
    model.head.loss = lambda *arguments: given.append(arguments[4]) or {}
    expected = MovingAverage(model.network(), 0.9)
    expected.load_state_dict(model.target.state_dict())
    expected.train()
    expected.follow(model.network())
    model.loss(images, idx)
    projection = expected(images)[-1].detach()
    torch.testing.assert_close(seen[0], normalize(projection, dim=1))
    torch.testing.assert_close(given[0], [projection])
    own = normalize(model.project(images).detach(), dim=1)
    assert (seen[0] - own).abs().max() > 1e-3


def test_soft_targets_come_from_the_average():
    """The loss of two views, written down once more."""
    views = [units(6, 4, seed=seed) for seed in range(6)]
    projections, predictions, references = views[:2], views[2:4], views[4:]
    centers, label = units(5, 4, seed=9), torch.arange(6) % 5
    loss = multi_view_coke_loss(
        projections,
        predictions,
        [centers],
        [label],
        temperature=0.2,
        prediction_weight=0.5,
        label_weight=0.3,
        references=references,
    )['loss_full']
    soft = [cluster_logits(x, centers, 0.2).softmax(1) for x in references]
    expected = []
    for branch in (projections, predictions):
        for x, other in zip(branch, reversed(soft), strict=True):
            target = 0.3 * nn.functional.one_hot(label, 5) + 0.7 * other
            expected.append(-(target * cluster_logits(x, centers, 0.2).log_softmax(1)).sum(1))
    torch.testing.assert_close(loss, torch.stack(expected).mean())


def test_a_checkpoint_without_the_average_starts_it_from_its_weights(tmp_path, tiny_config):
    tiny_config.merge_from_dict({'train_cfg.max_epochs': 1})
    train(tiny_config)
    cfg = tiny('coke', tmp_path / 'second')
    start = f'{tiny_config.work_dir}/epoch_1.pth'
    cfg.merge_from_dict(MOMENTUM | {'load_from': start, 'train_cfg.max_epochs': 1})
    train(cfg)  # its only epoch has a learning rate of 0
    before = read_checkpoint(start)['state_dict']
    after = read_checkpoint(f'{cfg.work_dir}/epoch_1.pth')['state_dict']
    averages = [name for name in after if name.startswith('target.network.0.')]
    weights = {f'backbone.{name.removeprefix("target.network.0.")}' for name in averages}
    assert len(weights & set(before)) == len(averages) > 10
    for name in averages:
        if 'running' not in name and 'tracked' not in name:
            old = before[f'backbone.{name.removeprefix("target.network.0.")}']
            torch.testing.assert_close(after[name], old)


def test_a_step_with_all_options_asks_nothing_of_the_device(monkeypatch):
    monkeypatch.setattr(torch, 'autocast', lambda *args, **kwargs: nullcontext())
    model = model_of(**MOMENTUM, **NESTED, **{'model.clustering.repulsion': 0.1})
    model.to('meta')
    views = [torch.empty(16, 1, 16, 16, device='meta') for _ in range(2)]
    idx = torch.empty(16, dtype=torch.int64, device='meta')
    for epoch in range(2):
        model.labelers.set_epoch(epoch)
        for inputs in (views[:1], views):
            assert model.loss(inputs, idx)['loss'].device.type == 'meta'
