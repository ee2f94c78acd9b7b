"""SeLa: labels of equal shares over the whole set, in chunks; when they are updated."""

from contextlib import nullcontext

import pytest
import torch
from conftest import CONFIGS, tiny
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from mmengine.structures import BaseDataElement

from mmcoke.clustering import SeLaLabeler, sinkhorn
from mmcoke.clustering.sinkhorn import sinkhorn_columns
from mmcoke.engine.hooks import SeLaHook
from mmcoke.engine.hooks.sela_hook import update_epochs
from mmcoke.engine.launch import build_runner
from mmcoke.models.heads import SeLaHead
from mmcoke.registry import MODELS

A, K, D = 60, 4, 5


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


CLASSIFIER = dict(weight_KD=random(K, D, seed=1), bias_K=random(K, seed=2))


def scores(x_AD):
    return x_AD @ CLASSIFIER['weight_KD'].T + CLASSIFIER['bias_K']


# ---- the scaling


def test_the_columns_are_those_of_sinkhorn_at_the_fixed_point():
    score = random(A, K)
    options = dict(temperature=0.5, num_iters=2000)
    column = sinkhorn_columns(lambda: score.split(7), K, tolerance=0.0, **options)
    plan = (score / 0.5 + column).softmax(1)
    torch.testing.assert_close(plan, sinkhorn(score, **options), atol=1e-3, rtol=0)
    torch.testing.assert_close(plan.sum(0), torch.full((K,), A / K), atol=1e-3, rtol=0)


def test_it_ends_where_shares_are_equal_within_the_tolerance():
    score, passes = random(A, K), []

    def chunks():
        passes.append(1)
        return score.split(20)

    options = dict(temperature=0.5, num_iters=500, tolerance=0.05)
    column = sinkhorn_columns(chunks, K, **options)
    share = (score / 0.5 + column).softmax(1).sum(0) * K / A
    assert 0 < (share - 1).abs().mean() <= 0.05
    assert 1 < len(passes) < 500
    first = score.div(0.5).softmax(1).sum(0) * K / A
    assert (first - 1).abs().mean() > 0.05  # else nothing was at stake


# ---- the labeler


def test_labels_maximize_the_score_under_equal_shares():
    """As Sinkhorn on the whole matrix; without shares most samples would be in few clusters."""
    x = random(A, D) + 1.0
    labeler = SeLaLabeler(A, K, temperature=0.05, num_iters=3000, tolerance=1e-4)
    labeler.refit(x, **CLASSIFIER)
    plan = sinkhorn(scores(x), temperature=0.05, num_iters=3000)
    assert torch.equal(labeler.labels.read(torch.arange(A)), plan.argmax(1))
    assert (labeler.sizes() - A / K).abs().max() <= 2
    assert torch.equal(labeler.sizes(), labeler.labels.sizes())
    assert (scores(x).argmax(1).bincount(minlength=K) - A / K).abs().max() >= 10
    assert torch.equal(labeler.step(x[3:5], torch.tensor([3, 4])), plan.argmax(1)[3:5])


def test_chunks_do_not_change_the_labels_and_bound_what_is_scored():
    x, seen = random(A, D), []
    results = [SeLaLabeler(A, K, chunk_size=m).cluster(x, **CLASSIFIER) for m in (A, 7, 1)]
    for other in results[1:]:
        assert torch.equal(other.label, results[0].label)
        assert other.objective == pytest.approx(results[0].objective, rel=1e-5)
    labeler = SeLaLabeler(A, K, chunk_size=7)
    addmm = torch.addmm

    def noting(*args, **kwargs):
        seen.append(len(args[1]))
        return addmm(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, 'addmm', noting)
        labeler.cluster(x, **CLASSIFIER)
    assert max(seen) == 7 and sum(seen) % A == 0


def test_samples_that_are_left_out_have_no_label():
    x = random(A, D)
    labeler = SeLaLabeler(A, K)
    labeler.refit(x, left_out=[2, 5], **CLASSIFIER)
    assert labeler.labels.read(torch.tensor([1, 2, 5])).tolist()[1:] == [-1, -1]
    assert labeler.sizes().sum() == A - 2


def test_what_does_not_fit_is_refused():
    labeler = SeLaLabeler(A, K)
    with pytest.raises(ValueError, match='There are no labels before the first clustering'):
        labeler.step(random(2, D), torch.arange(2))
    with pytest.raises(ValueError, match=r'weights \(4, 5\), but features \(60, 3\)'):
        labeler.cluster(random(A, 3), **CLASSIFIER)
    with pytest.raises(ValueError, match=r'NaN|finite'):
        labeler.cluster(random(A, D).fill_diagonal_(float('nan')), **CLASSIFIER)
    with pytest.raises(ValueError, match='more than the 60 samples'):
        SeLaLabeler(A, A + 1)


# ---- head and algorithm


def test_the_loss_is_the_mean_over_clusterings_and_unlabelled_images_do_not_count():
    head = SeLaHead(D, [K, 6])
    x, labels = random(3, D), [torch.tensor([0, 1, -1]), torch.tensor([5, 2, 1])]
    cross_entropy = torch.nn.functional.cross_entropy
    one, other = head(x)
    expected = (cross_entropy(one[:2], labels[0][:2]) + cross_entropy(other, labels[1])) / 2
    torch.testing.assert_close(head.loss(x, labels)['loss'], expected)


def test_each_clustering_has_a_labeler_and_a_classifier_of_its_size():
    init_default_scope('mmcoke')
    model = MODELS.build(tiny('sela').model)
    model.init_labelers(A)
    sizes = model.clustering['num_clusters']
    assert [labeler.num_clusters for labeler in model.labelers] == sizes
    assert [c.fc_cls.out_features for c in model.head.classifiers] == sizes


def test_no_number_of_clusters_is_refused():
    init_default_scope('mmcoke')
    cfg = tiny('sela').model
    cfg.clustering.num_clusters = []
    with pytest.raises(ValueError, match='num_clusters is empty'):
        MODELS.build(cfg)


def test_a_step_asks_nothing_of_the_device(tmp_path, monkeypatch):
    """As in test_captured.py."""
    monkeypatch.setattr(torch, 'autocast', lambda *args, **kwargs: nullcontext())
    model = build_runner(tiny('sela', tmp_path)).model
    model.init_labelers(100)
    model.to('meta').train()
    assert model.capturable
    images = torch.empty(64, 1, 16, 16, device='meta')
    loss = model.loss(images, torch.empty(64, dtype=torch.int64, device='meta'))['loss']
    assert loss.device.type == 'meta'


# ---- the schedule


@pytest.mark.parametrize(
    ('num_updates', 'max_epochs', 'power', 'expected'),
    [
        (0, 10, 2, []),
        (1, 10, 2, []),  # it would be after the last epoch
        (4, 16, 2, [1, 4, 9]),
        (5, 20, 1, [4, 8, 12, 16]),
        (400, 400, 1, list(range(1, 400))),
        (10, 10, 2, [1, 2, 3, 4, 5, 7, 9]),  # .1, .4, .9, 1.6, 2.5, 3.6, 4.9, 6.4, 8.1, 10
    ],
)
def test_updates_are_closer_together_at_first(num_updates, max_epochs, power, expected):
    assert update_epochs(num_updates, max_epochs, power) == expected


class Note(Hook):
    """Table and weights after each epoch, before or after other hooks."""

    def __init__(self, priority):
        self.priority, self.labels, self.weights = priority, [], []

    def after_train_epoch(self, runner):
        model = runner.model
        self.labels.append(model.labelers[0].labels.label.clone())
        self.weights.append(model.head.classifiers[0].fc_cls.weight.detach().clone())


def test_labels_change_when_they_are_due_and_classifiers_go_on(tmp_path):
    cfg = tiny('sela', tmp_path, num_images=200)
    cfg.train_cfg.max_epochs = 5
    cfg.custom_hooks[0].num_updates = 2  # after epochs 1.25 and 5: one, at the end of the second
    runner = build_runner(cfg)
    notes = [Note(priority) for priority in ('VERY_HIGH', 'LOWEST')]
    for note in notes:
        runner.register_hook(note)
    runner.train()
    before, after = notes
    same = [*map(torch.equal, before.labels, after.labels)]
    assert same == [True, False, True, True, True]
    assert all(map(torch.equal, before.weights, after.weights))
    momentum = runner.optim_wrapper.optimizer.state[runner.model.head.classifiers[0].fc_cls.weight]
    assert momentum['momentum_buffer'].any()
    assert [int(labeler.num_fits) for labeler in runner.model.labelers] == [2, 2]
    assert after.labels[-1].min() >= 0


def test_a_bad_number_of_updates_is_refused():
    for value in (-1, 2.5, True):
        with pytest.raises(ValueError, match='num_updates must be'):
            SeLaHook(pipeline=[], num_updates=value)
    with pytest.raises(ValueError, match='power must be at least 1'):
        SeLaHook(pipeline=[], num_updates=4, power=0.5)


def test_indices_of_data_samples_will_do():
    init_default_scope('mmcoke')
    model = MODELS.build(tiny('sela').model)
    model.init_labelers(A)
    x = random(A, model.head.in_channels)
    for number, labeler in enumerate(model.labelers):
        fc = model.head.classifiers[number].fc_cls
        labeler.refit(x, weight_KD=fc.weight.detach(), bias_K=fc.bias.detach())
    samples = [BaseDataElement(metainfo=dict(sample_idx=i)) for i in range(4)]
    assert model.loss(random(4, 1, 16, 16), samples)['loss'].isfinite()


# ---- recipes


@pytest.mark.parametrize(
    ('recipe', 'published'),
    [
        # clusterings, lambda, updates, images, learning rate, weight decay, its drops
        ('sela_r50_8xb32_in1k', ([3000] * 10, 25, 100, 256, 0.05, 1e-5, [150, 300, 350])),
        ('sela_r18_1xb128_cifar10', ([128] * 10, 10, 400, 128, 0.03, 5e-4, [160, 240, 320])),
    ],
)
def test_the_recipes_are_those_of_the_authors_scripts(recipe, published):
    cfg = Config.fromfile(CONFIGS / f'sela/{recipe}.py')
    optimizer, (schedule,) = cfg.optim_wrapper.optimizer, cfg.param_scheduler
    assert published == (
        cfg.model.clustering.num_clusters,
        pytest.approx(1 / cfg.model.clustering.temperature),
        cfg.custom_hooks[0].num_updates,
        cfg.auto_scale_lr.base_batch_size,
        optimizer.lr,
        optimizer.weight_decay,
        schedule.milestones,
    )
    assert (optimizer.type, optimizer.momentum) == ('SGD', 0.9)
    assert (cfg.train_cfg.max_epochs, schedule.gamma) == (400, 0.1)
