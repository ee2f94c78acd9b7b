"""SeCu as an algorithm: what is clustered, what the loss is, what is logged and refused."""

import pytest
import torch
from conftest import CONFIGS, tiny
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch.nn.functional import cross_entropy, normalize

from mmcoke.engine.launch import build_runner, train
from mmcoke.models import SeCu
from mmcoke.registry import MODELS
from mmcoke.reporting.report import read_scalars


def build(**changes):
    init_default_scope('mmcoke')
    torch.manual_seed(0)
    cfg = tiny('secu')
    cfg.merge_from_dict(changes)
    model = MODELS.build(cfg.model)
    model.init_labelers(60)
    model.labelers.set_epoch(0)
    return model


def views(num=2, size=16):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(20, 1, size, size, generator=generator) for _ in range(num)]


def test_the_loss_is_that_of_the_label_and_of_the_other_view():
    model, (first, second), idx = build(), views(), torch.arange(20)
    x_VnD = [normalize(model.project(view), dim=1) for view in (first, second)]
    model = build()  # running statistics and labels of the beginning
    losses = model.loss([first, second], idx)
    expected = 0
    for labeler, centers in zip(model.labelers, model.labelers.centers, strict=True):
        label = labeler.labels.read(idx)
        one, other = (x_nD @ centers.T / model.head.temperature for x_nD in x_VnD)
        for mine, theirs in ((one, other), (other, one)):
            expected += 0.5 * cross_entropy(mine, label) / 4
            expected += 0.5 * cross_entropy(mine, theirs.detach().softmax(1)) / 4
    torch.testing.assert_close(losses['loss'], expected)
    assert losses['center_ce'] == model.labelers.center_loss > 0


def test_the_centers_loss_is_a_number_of_the_log_alone():
    model = build()
    total, log = model.parse_losses(model.loss(views(), torch.arange(20)))
    assert total == log['loss'] != log['center_ce']
    total.backward()
    assert not any('labelers' in name for name, _ in model.named_parameters())


def test_all_clusterings_are_trained_against_the_centers_of_the_last_epoch():
    model = build()
    before = [centers.clone() for centers in model.labelers.centers]
    weights = [labeler.weight.clone() for labeler in model.labelers]
    model.loss(views(), torch.arange(20))
    for labeler, centers, weight in zip(model.labelers, before, weights, strict=True):
        assert torch.equal(labeler.centers, centers)
        assert not torch.equal(labeler.weight, weight)
    model.labelers.end_epoch()
    for labeler, centers in zip(model.labelers, before, strict=True):
        assert not torch.equal(labeler.centers, centers)
        assert torch.equal(labeler.centers, normalize(labeler.weight, dim=1))


def test_joint_views_share_their_statistics():
    passes = {}
    for joint in (False, True):
        model, sizes = build(**{'model.joint_views': joint}), []
        model.backbone.register_forward_pre_hook(lambda _, x, sizes=sizes: sizes.append(len(x[0])))
        passes[joint] = model.loss(views(), torch.arange(20))['loss'], sizes
    assert passes[False][1] == [20, 20] and passes[True][1] == [40]
    assert passes[False][0] != passes[True][0]


@pytest.mark.parametrize('inputs', [views(1), views(1)[0], views(3), [*views(1), *views(1, 8)]])
def test_other_than_two_views_of_one_size_are_refused(inputs):
    with pytest.raises(ValueError, match='two views of one size') as caught:
        build().loss(inputs, torch.arange(20))
    assert len(str(caught.value).splitlines()) == 1


def test_without_its_hook_it_says_which_one_to_add():
    model = build()
    model.labelers = torch.nn.ModuleList()
    with pytest.raises(ValueError, match=r'dict\(type="mmcoke\.CoKeHook"\)'):
        model.loss(views(), torch.arange(20))


def test_the_log_has_its_curves_and_dual_lr_follows_the_batch(tmp_path):
    cfg = tiny('secu', tmp_path, num_images=320)
    cfg.train_dataloader.batch_size = 32
    runner = build_runner(cfg)
    runner.train()
    model = runner.model
    assert isinstance(model, SeCu)
    assert [labeler.dual_lr for labeler in model.labelers] == [0.25, 0.25]  # 0.5 for 64 images
    curves = read_scalars(tmp_path)
    for name in ('loss', '8/min_size', '12/max_size', '12/num_small', '8/changed'):
        assert len(curves[f'secu/{name}']) == 3, name
    assert len(curves['center_ce']) == 3


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (
            {'model.head.type': 'CoKeHead', 'model.head.hid_channels': 8},
            "needs head.type='SeCuHead'",
        ),
        ({'model.clustering.dim': [4, 8]}, 'are of CoKe, not of SeCu: leave clustering.dim out'),
    ],
)
def test_heads_and_clusterings_of_coke_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        build(**wrong)


def test_a_checkpoint_of_the_other_constraint_is_refused(tmp_path):
    cfg = tiny('secu', tmp_path, num_images=128)
    cfg.train_cfg.max_epochs = 1
    train(cfg)
    cfg.merge_from_dict({'resume': True, 'model.clustering.constraint': 'entropy'})
    message = (
        r'SeCu constrained by size, num_clusters=\[8, 12\], \[128\] samples, dimension \[8\], but '
        r'the config and the data set make SeCu constrained by entropy, num_clusters=\[8, 12\]'
    )
    with pytest.raises(ValueError, match=message):
        train(cfg)


def test_with_a_predictor_its_predictions_are_clustered_and_classified_too():
    norm = dict(type='BN1d')
    init_default_scope('mmcoke')
    torch.manual_seed(0)
    cfg = tiny('secu')
    cfg.model.head.update(hid_channels=16, norm_cfg=norm)
    model = MODELS.build(cfg.model)
    model.init_labelers(60)
    model.labelers.set_epoch(0)
    model.eval()  # BN uses fixed statistics: the parts can be computed on their own
    idx, seen = torch.arange(20), []
    projections = [model.project(view) for view in views()]
    predictions = [model.head.predictor((x,))[0] for x in projections]
    branches = [normalize(x, dim=1) for x in (*projections, *predictions)]
    step = model.labelers.step
    model.labelers.step = lambda x, *args: seen.append(x) or step(x, *args)
    loss = model.loss(views(), idx)['loss']
    torch.testing.assert_close(seen[0], torch.stack(branches).detach())
    expected = 0
    for labeler, centers in zip(model.labelers, model.labelers.centers, strict=True):
        label = labeler.labels.read(idx)
        one, other, *predicted = (x_nD @ centers.T / model.head.temperature for x_nD in branches)
        for mine, theirs in zip((one, other, *predicted), (other, one) * 2, strict=True):
            expected += 0.5 * cross_entropy(mine, label) / 8
            expected += 0.5 * cross_entropy(mine, theirs.detach().softmax(1)) / 8
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(p.grad is not None for p in model.head.parameters())


CLUSTERING = {
    # K, lower bound, dual_lr for so many images, center_lr, weight decay, trust coefficient,
    # temperature of the centers, epochs
    'secu_r18_1xb128_cifar10.py': (range(10, 101, 10), 0.9, 0.1, 128, 1.2, 1e-4, None, 0.05, 401),
    'secu_r18_1xb128_cifar100.py': (range(20, 201, 20), 0.9, 0.1, 128, 0.8, 1e-4, None, 0.05, 801),
    'secu_r18_1xb128_stl10.py': (range(10, 101, 10), 0.9, 0.1, 128, 0.8, 1e-4, None, 1.0, 801),
    'secu_r50_8xb64_in1k.py': (
        *(range(1000, 10001, 1000), 0.4, 20, 1024, 4.2 / 2, 1e-6, 0.001),
        *(0.05, 1001),
    ),
}


@pytest.mark.parametrize('recipe', CLUSTERING)
def test_recipes_have_the_published_settings(recipe):
    cfg = Config.fromfile(CONFIGS / 'secu' / recipe)
    clustering, head = cfg.model.clustering, cfg.model.head
    numbers, *others = CLUSTERING[recipe]
    assert clustering.num_clusters == list(numbers)
    assert others == [
        clustering.min_ratio,
        clustering.dual_lr,
        clustering.dual_lr_base_batch_size,
        clustering.center_lr,
        clustering.get('weight_decay', 1e-4),
        clustering.get('trust_coefficient'),
        clustering.center_temperature,
        cfg.train_cfg.max_epochs,
    ]
    assert clustering.get('momentum', 0.9) == 0.9
    assert (head.temperature, head.label_weight, head.in_channels) == (0.05, 0.2, 128)
    assert head.get('hid_channels') == (2048 if 'in1k' in recipe else None)


def test_the_cifar10_recipe_has_the_published_schedule_and_views():
    cfg = Config.fromfile(CONFIGS / 'secu/secu_r18_1xb128_cifar10.py')
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr) == ('SGD', 0.2)
    assert (optimizer.momentum, optimizer.weight_decay) == (0.9, 1e-4)
    (curve,) = cfg.param_scheduler
    assert (cfg.train_cfg.max_epochs, curve.zero, curve.warmup) == (401, 1, 10)
    assert cfg.train_dataloader.batch_size == 128
    blurs = [view[4]['p'] for view in cfg.model.data_preprocessor.views]
    assert blurs == [1.0, 0.1]
    crop, _, jitter, gray = cfg.model.data_preprocessor.views[0][:4]
    assert crop['scale'] == (0.3, 1.0)
    assert [jitter[name] for name in ('brightness', 'contrast', 'saturation', 'hue', 'p')] == [
        0.4, 0.4, 0.2, 0.1, 0.8,
    ]  # fmt: skip
    assert gray['p'] == 0.2
    assert cfg.model.data_preprocessor.views[1][5] == dict(
        type='RandomSolarize', threshold=0.5, p=0.2
    )
    assert (cfg.model.neck.hid_channels, cfg.model.neck.out_channels) == (512, 128)
