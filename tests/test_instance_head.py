"""A loss that tells images apart, which fades out over CoKe's first epochs."""

import math
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from conftest import tiny
from mmengine.registry import init_default_scope
from torch.nn.functional import normalize

from mmcoke.engine.launch import train
from mmcoke.files import read_checkpoint
from mmcoke.losses import instance_loss
from mmcoke.models.heads import CoKeHead, InstanceCoKeHead
from mmcoke.registry import MODELS

INSTANCE = {'model.head.type': 'InstanceCoKeHead', 'model.head.instance_epochs': 4}


def units(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator), dim=-1)


def two_views(work_dir=None, **options):
    cfg = tiny('coke', work_dir, num_images=192)
    view = cfg.model.data_preprocessor.views[0]
    cfg.merge_from_dict(INSTANCE | options | {'default_hooks.checkpoint.max_keep_ckpts': -1})
    cfg.model.data_preprocessor.views = [view, view]
    cfg.default_hooks.checkpoint.interval = 1
    return cfg


def heads(**settings):
    torch.manual_seed(0)
    common = dict(temperature=0.2, norm_cfg=dict(type='BN1d'))
    plain = CoKeHead(8, 16, **common)
    fading = InstanceCoKeHead(8, 16, **common, **settings)
    fading.load_state_dict(plain.state_dict())
    return plain, fading


def test_two_images_by_hand():
    """Views of one image are equal, of the other image orthogonal; T = 1: e against e, 1, 1."""
    x = torch.eye(2)
    expected = math.log((math.e + 2) / math.e)
    assert instance_loss(x, x, temperature=1.0).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize('decoupled', [False, True])
def test_it_is_what_the_formula_says_view_by_view(decoupled):
    x, y = units(5, 6), units(5, 6, seed=1)
    both, losses = torch.cat([x, y]), []
    for i in range(10):
        partner = (i + 5) % 10
        left_out = (i, partner) if decoupled else (i,)
        others = [j for j in range(10) if j not in left_out]
        similarity = both @ both[i] / 0.2
        losses.append(similarity[others].logsumexp(0) - similarity[partner])
    found = instance_loss(x, y, temperature=0.2, decoupled=decoupled)
    torch.testing.assert_close(found, torch.stack(losses).mean())


def test_decoupled_by_hand():
    """As above, but only the two views of the other image are in the denominator."""
    x = torch.eye(2)
    found = instance_loss(x, x, temperature=1.0, decoupled=True).item()
    assert found == pytest.approx(math.log(2 / math.e), rel=1e-6)


@pytest.mark.parametrize('decoupled', [False, True])
def test_gradient_is_that_of_finite_differences(decoupled):
    x, y = (units(4, 3, seed=seed) for seed in (0, 1))
    x.requires_grad_()
    loss = instance_loss(x, y, temperature=0.5, decoupled=decoupled)
    (gradient,) = torch.autograd.grad(loss, x)
    step = 1e-2 * units(4, 3, seed=2)
    ahead, behind = (
        instance_loss(x.detach() + way * step, y, temperature=0.5, decoupled=decoupled)
        for way in (1, -1)
    )
    torch.testing.assert_close((gradient * step).sum(), (ahead - behind) / 2, rtol=1e-2, atol=1e-5)


def test_the_head_decouples_where_it_is_told():
    views = [2 * units(6, 8), units(6, 8, seed=1)]
    arguments = [units(6, 8, seed=2), units(6, 8, seed=3)], [units(3, 8)], [torch.arange(6) % 3]
    found = {}
    for decoupled in (False, True):
        _, fading = heads(instance_epochs=4, instance_decoupled=decoupled)
        found[decoupled] = fading.loss(views, *arguments)
        sides = (normalize(x, dim=1) for x in views)
        expected = instance_loss(*sides, temperature=0.2, decoupled=decoupled)
        torch.testing.assert_close(found[decoupled]['instances'], expected)
    torch.testing.assert_close(found[False]['clusters'], found[True]['clusters'])
    assert found[True]['instances'] < found[False]['instances']


@pytest.mark.parametrize(('epoch', 'share'), [(0, 1.0), (1, 0.75), (3, 0.25), (4, 0.0), (9, 0.0)])
def test_it_fades_out_linearly(epoch, share):
    plain, fading = heads(instance_epochs=4)
    fading.set_epoch(epoch)
    views = [2 * units(6, 8), units(6, 8, seed=1)]
    arguments = [units(6, 8, seed=2), units(6, 8, seed=3)], [units(3, 8)], [torch.arange(6) % 3]
    clusters = plain.loss(views, *arguments)['loss']
    apart = instance_loss(*(normalize(x, dim=1) for x in views), temperature=0.2)
    losses = fading.loss(views, *arguments)
    torch.testing.assert_close(losses['loss'], (1 - share) * clusters + share * apart)
    torch.testing.assert_close(losses['instances'], apart)
    torch.testing.assert_close(losses['clusters'], clusters)


def test_one_view_is_refused():
    _, fading = heads(instance_epochs=4)
    x = units(6, 8)
    with pytest.raises(ValueError, match='tells images apart by two views, but there is one'):
        fading.loss([x], [x], [units(3, 8)], [torch.arange(6) % 3])


def test_one_image_has_no_other_to_be_told_from():
    x = units(1, 3)
    assert instance_loss(x, x).item() == pytest.approx(0)  # its other view is there
    with pytest.raises(ValueError, match=r'a batch has one image.*drop_last=True'):
        instance_loss(x, x, decoupled=True)


@pytest.mark.parametrize('wrong', [dict(instance_epochs=0), dict(instance_epochs=1.5)], ids=str)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match='instance_epochs'):
        InstanceCoKeHead(8, 16, **wrong)
    with pytest.raises(ValueError, match='instance_temperature'):
        InstanceCoKeHead(8, 16, instance_epochs=1, instance_temperature=0.0)
    with pytest.raises(ValueError, match='instance_decoupled must be True or False, but is 1'):
        InstanceCoKeHead(8, 16, instance_epochs=1, instance_decoupled=1)


def test_resume_continues_bit_for_bit(tmp_path):
    """From within the epochs in which it fades."""
    whole = two_views(tmp_path / 'whole', **{'train_cfg.max_epochs': 3})
    train(whole)
    resumed = two_views(tmp_path / 'resumed', **{'train_cfg.max_epochs': 3, 'resume': True})
    Path(resumed.work_dir).mkdir()
    shutil.copy(Path(whole.work_dir) / 'epoch_2.pth', resumed.work_dir)
    model = train(resumed)
    one, other = (
        read_checkpoint(f'{cfg.work_dir}/epoch_3.pth')['state_dict'] for cfg in (whole, resumed)
    )
    assert one.keys() == other.keys() and not any('share' in key for key in one)
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert model.head.share.item() == 0.5  # 1 - 2/4


def test_a_step_asks_nothing_of_the_device(monkeypatch):
    monkeypatch.setattr(torch, 'autocast', lambda *args, **kwargs: nullcontext())
    init_default_scope('mmcoke')
    model = MODELS.build(two_views().model)
    model.init_weights()
    model.init_labelers(40)
    model.train().to('meta')
    views = [torch.empty(16, 1, 16, 16, device='meta') for _ in range(2)]
    idx = torch.empty(16, dtype=torch.int64, device='meta')
    keys = set()
    for epoch in range(6):
        model.labelers.set_epoch(epoch)
        model.head.set_epoch(epoch)
        keys.add(model.step_key())
        assert model.loss(views, idx)['loss'].device.type == 'meta'
    assert len(keys) == 1  # the operations stay the same, so one graph holds all epochs
