"""Two views and multi-crop in the one algorithm."""

import pytest
import torch
from mmengine.registry import init_default_scope
from mmengine.structures import BaseDataElement
from torch.nn.functional import normalize

from mmcoke.losses import coke_loss, multi_view_coke_loss
from mmcoke.models.algorithms.coke import count_full_views
from mmcoke.registry import MODELS


def samples(indices):
    return [BaseDataElement(metainfo=dict(sample_idx=i)) for i in indices]


@pytest.fixture
def model(tiny_config):
    init_default_scope('mmcoke')
    tiny_config.model.clustering.num_clusters = [4, 6]
    model = MODELS.build(tiny_config.model)
    model.init_labelers(20)
    return model.eval()  # batch statistics off: a joint pass gives the same


def views(*sizes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(5, 1, size, size, generator=generator) for size in sizes]


def expected_parts(model, inputs):
    """Projections, predictions and what is clustered, view by view."""
    projections = [model.project(view) for view in inputs]
    predictions = [normalize(model.head(x), dim=1) for x in projections]
    return [normalize(x, dim=1) for x in projections], predictions


@pytest.mark.parametrize('joint_views', [False, True])
@pytest.mark.parametrize('sizes', [(16,), (16, 16), (16, 16, 10, 10, 10), (16, 16, 12, 10)])
def test_loss_equals_the_one_computed_view_by_view(model, sizes, joint_views):
    model.joint_views = joint_views
    inputs, idx = views(*sizes), torch.tensor([3, 1, 4, 0, 7])
    projections, predictions = expected_parts(model, inputs)
    centers = [labeler.kmeans.centers.clone() for labeler in model.labelers]
    clustered = torch.stack(projections[: sizes.count(16)]).mean(0)
    targets = [labeler.kmeans.assign(clustered) for labeler in model.labelers]
    result = model.loss(inputs, samples(idx.tolist()))

    args = (projections, predictions, centers, targets)
    if len(sizes) == 1:
        options = dict(temperature=0.2, prediction_weight=0.5)
        expected = coke_loss(projections[0], predictions[0], centers, targets, **options)
    else:
        options = dict(temperature=0.2, prediction_weight=0.5, label_weight=0.2)
        parts = multi_view_coke_loss(*args, **options)
        expected = parts['loss_full']
        if 'loss_small' in parts:
            expected = (expected + parts['loss_small']) / 2
            assert result['small_crops'].item() == pytest.approx(parts['loss_small'].item())
            assert result['full_views'].item() == pytest.approx(parts['loss_full'].item())
    assert result['loss'].item() == pytest.approx(expected.item(), rel=1e-5)
    for labeler, target in zip(model.labelers, targets, strict=True):
        assert torch.equal(labeler.newest.read(idx), target)


def test_small_crops_do_not_reach_the_clustering(model):
    model.loss(views(16, 16), samples(range(5)))
    state = {name: value.clone() for name, value in model.labelers.state_dict().items()}
    model.init_labelers(20)
    model.loss(views(16, 16, 10, 10), samples(range(5)))
    assert all(torch.equal(v, state[n]) for n, v in model.labelers.state_dict().items())


def test_the_mean_of_two_views_is_not_normalized_again(model, monkeypatch):
    seen = []
    step = model.labelers.step
    monkeypatch.setattr(
        model.labelers, 'step', lambda x, idx, own: seen.append(x) or step(x, idx, own)
    )
    model.loss(views(16, 16), samples(range(5)))
    assert (seen[0].norm(dim=1) < 1 - 1e-4).any()


def passes(model, layer):
    """Shapes of the inputs that a layer gets in an iteration with two views and three crops."""
    shapes = []
    layer.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    model.loss(views(16, 16, 10, 10, 10), samples(range(5)))
    return shapes


def test_each_view_passes_the_whole_network_on_its_own(model):
    seen = passes(model, model.backbone)
    assert seen == [(5, 1, 16, 16)] * 2 + [(5, 1, 10, 10)] * 3
    assert passes(model, model.neck.fc0) == [(5, 16)] * 5
    assert passes(model, model.head.predictor.fc0) == [(5, 8)] * 5


def test_joint_views_of_one_size_go_through_the_network_in_one_pass(model):
    model.joint_views = True
    assert passes(model, model.backbone) == [(10, 1, 16, 16), (15, 1, 10, 10)]
    assert passes(model, model.head.predictor.fc0) == [(10, 8), (15, 8)]


@pytest.mark.parametrize('joint_views', [False, True])
def test_batch_norm_of_joint_views_has_the_statistics_of_all_of_them(model, joint_views):
    """By hand: with momentum 0.1, the running mean after a pass of a batch of mean m from mean r
    is .9 r + .1 m, and the variance is that of the samples (n - 1)."""
    model.train().joint_views = joint_views
    one, other = views(16, 16)
    other = 3 * other + 1  # augmented differently
    conv, norm = model.backbone.layers[:2]
    with torch.no_grad():
        batches = [conv(x) for x in ([torch.cat([one, other])] if joint_views else [one, other])]
    mean, variance = torch.zeros(8), torch.ones(8)
    for x in batches:
        mean = 0.9 * mean + 0.1 * x.mean((0, 2, 3))
        variance = 0.9 * variance + 0.1 * x.transpose(0, 1).flatten(1).var(1)
    model.loss([one, other], samples(range(5)))
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, variance)
    assert int(norm.num_batches_tracked) == len(batches)


@pytest.mark.parametrize('sizes', [(16, 10), (16, 16, 16), (16, 10, 16), (16, 16, 16, 10)])
def test_other_views_are_refused_with_their_sizes(sizes):
    with pytest.raises(ValueError, match=r'two of full size .*\(16, 16\)'):
        count_full_views(views(*sizes))


def test_no_view_is_refused_like_too_many():
    with pytest.raises(ValueError, match='two of full size'):
        count_full_views([])
