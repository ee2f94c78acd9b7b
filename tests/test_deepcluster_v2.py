"""DeepCluster-v2 as an algorithm: what is clustered, what is classified, what is logged."""

import copy
import json

import pytest
import torch
from conftest import tiny
from mmengine.registry import init_default_scope
from torch.nn.functional import cross_entropy, normalize

from mmcoke.engine.launch import build_runner, train
from mmcoke.engine.model_wrappers import unwrap
from mmcoke.registry import MODELS


@pytest.fixture
def model():
    """Small, on 40 images, with labels; BN uses fixed statistics."""
    init_default_scope('mmcoke')
    torch.manual_seed(0)
    model = MODELS.build(tiny('deepclusterv2').model)
    model.init_labelers(40)
    model.labelers.step(normalize(torch.randn(40, 8), dim=1), torch.arange(40))
    model.labelers.end_epoch()
    return model.eval()


def crops():
    """Of 6 images: two of full size, three small ones."""
    return [torch.randn(6, 1, size, size) for size in (16, 16, 10, 10, 10)]


IDX = torch.tensor([3, 39, 0, 7, 8, 20])


def test_all_crops_are_classified_by_the_label_of_their_image(model):
    """The mean cross-entropy over crops and clusterings, as torch computes it."""
    views, centers = crops(), [x.clone() for x in model.labelers.centers]
    labels = [head.labels.label[IDX].long() for head in model.labelers]
    losses = []
    for view in views:
        x = normalize(model.project(view), dim=1)
        for c, label in zip(centers, labels, strict=True):
            losses.append(cross_entropy(x @ c.T / model.head.temperature, label))
    expected = torch.stack(losses).mean()
    expected_grads = torch.autograd.grad(expected, list(model.parameters()))
    loss = model.loss(views, IDX)['loss']
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    grads = torch.autograd.grad(loss, list(model.parameters()))
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, expected_grad, rtol=1e-3, atol=1e-5)
    assert all(map(torch.equal, centers, model.labelers.centers))
    assert not any(name.startswith(('labelers', 'head')) for name, _ in model.named_parameters())


def test_the_memory_gets_the_mean_of_the_full_size_crops_alone(model):
    views, before = crops(), model.labelers.memory.x.clone()
    model.loss(views, IDX)
    units = [normalize(model.project(view), dim=1) for view in views[:2]]
    expected = normalize(units[0] + units[1], dim=1).detach()
    torch.testing.assert_close(model.labelers.memory.x[IDX], expected, rtol=0, atol=1e-6)
    others = torch.ones(40, dtype=torch.bool)
    others[IDX] = False
    assert torch.equal(model.labelers.memory.x[others], before[others])


def test_one_crop_alone_is_enough(model):
    view = torch.randn(6, 1, 16, 16)
    loss = model.loss(view, IDX)['loss']
    assert torch.equal(loss, model.loss([view], IDX)['loss'])
    expected = normalize(model.project(view), dim=1).detach()
    torch.testing.assert_close(model.labelers.memory.x[IDX], expected, rtol=0, atol=1e-6)


def test_joint_views_share_the_statistics_of_bn(model):
    """In evaluation nothing changes, in training what BN sees does."""
    views, losses, start = crops(), {}, copy.deepcopy(model.state_dict())
    for joint in (False, True):
        model.load_state_dict(start)
        model.joint_views, seen = joint, []
        losses['eval', joint] = model.eval().loss(views, IDX)['loss']
        hook = model.backbone.register_forward_hook(lambda *x, seen=seen: seen.append(len(x[1][0])))
        losses['train', joint] = model.train().loss(views, IDX)['loss']
        hook.remove()
        assert seen == ([12, 18] if joint else [6] * 5)
    torch.testing.assert_close(losses['eval', False], losses['eval', True])
    assert abs(losses['train', False] - losses['train', True]) > 1e-3


def test_before_training_there_are_no_labelers_and_the_hook_is_named():
    init_default_scope('mmcoke')
    model = MODELS.build(tiny('deepclusterv2').model)
    with pytest.raises(ValueError, match=r'mmcoke\.DeepClusterV2Hook.*init_labelers'):
        model.loss(crops(), IDX)


def test_each_epoch_trains_on_the_clustering_of_the_one_before(tmp_path):
    """The first does not change the weights; a log has sizes and agreement."""
    cfg = tiny('deepclusterv2', tmp_path, num_images=320)
    runner = build_runner(cfg)
    model = unwrap(runner.model)
    first = {name: p.clone() for name, p in model.named_parameters()}
    seen, loss = [], model.head.loss

    def noting(projections, centers, targets):
        seen.append([x.clone() for x in centers])
        return loss(projections, centers, targets)

    model.head.loss = noting
    runner.train()
    length = len(runner.train_dataloader)
    epochs = [seen[i * length : (i + 1) * length] for i in range(3)]
    for steps in epochs:
        assert all(torch.equal(steps[0][0], centers[0]) for centers in steps)
    assert not torch.equal(epochs[0][0][0], epochs[1][0][0])
    assert not torch.equal(epochs[1][0][0], epochs[2][0][0])
    saved = [torch.load(tmp_path / f'epoch_{i}.pth', weights_only=True) for i in (1, 2, 3)]
    assert all(torch.equal(p, saved[0]['state_dict'][name]) for name, p in first.items())
    assert not all(torch.equal(p, saved[1]['state_dict'][name]) for name, p in first.items())
    for number in (0, 1):  # a checkpoint has the classifier of the next epoch
        centers = saved[number]['state_dict']['labelers.1.centers']
        assert torch.equal(centers, epochs[number + 1][0][1])

    (path,) = tmp_path.glob('*/vis_data/scalars.json')
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for k in (8, 12):
        found = [r for r in records if f'deepclusterv2/{k}/min_size' in r]
        assert [r['step'] for r in found] == [1, 2, 3]
        assert ['deepclusterv2/8/nmi' in r for r in found] == [False, k == 8, k == 8]
        assert all(1 <= r[f'deepclusterv2/{k}/min_size'] <= 320 / k for r in found)
        assert all(320 / k <= r[f'deepclusterv2/{k}/max_size'] for r in found)
        assert [r[f'deepclusterv2/{k}/num_filled'] for r in found] == [0, 0, 0]
    assert len([r for r in records if 'deepclusterv2/loss' in r]) == 3


def test_a_checkpoint_of_another_method_is_refused_with_both_names(tmp_path):
    coke, ours = (tiny(name, tmp_path, num_images=320) for name in ('coke', 'deepclusterv2'))
    coke.train_cfg.max_epochs = 1
    train(coke)
    ours.resume = True
    message = (
        r'clusterings of CoKe .*num_clusters=\[8, 12\].* make DeepClusterV2, '
        r'num_clusters=\[8, 12\], \[320\] samples, dimension \[8\]'
    )
    with pytest.raises(ValueError, match=message):
        train(ours)
