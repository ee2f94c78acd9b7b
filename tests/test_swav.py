"""SwAV: codes with and without a queue, the swapped prediction, prototypes that are frozen."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from conftest import CONFIGS, tiny
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from torch.nn.functional import normalize

from mmcoke.clustering import SwAVLabeler, sinkhorn
from mmcoke.engine.hooks import SwAVHook
from mmcoke.engine.hooks.labeler_hook import check_labeler_state
from mmcoke.engine.launch import build_runner, train
from mmcoke.losses import swapped_prediction_loss
from mmcoke.models.heads import SwAVHead
from mmcoke.registry import MODELS

A, N, K, D = 40, 8, 5, 6


def units(*shape, seed=0):
    return normalize(torch.randn(shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


PROTOTYPES = units(K, D, seed=9)


def steps(labeler, epochs, per_epoch=2):
    """Epochs of batches; the codes of each step and what was clustered."""
    seen = []
    for epoch in epochs:
        labeler.set_epoch(epoch)
        for i in range(per_epoch):
            x, idx = units(2, N, D, seed=10 * epoch + i), torch.arange(N) + i
            seen.append((x, labeler.step(x, idx, PROTOTYPES)))
    return seen


def test_codes_share_the_batch_of_each_view_and_labels_are_what_both_name():
    labeler = SwAVLabeler(A, K, D)
    ((x, code),) = steps(labeler, [0], per_epoch=1)
    for view in range(2):
        torch.testing.assert_close(code[view], sinkhorn(x[view] @ PROTOTYPES.T))
    assert torch.equal(labeler.labels.read(torch.arange(N)), code.mean(0).argmax(1))
    assert labeler.sizes().sum() == N
    assert labeler.changed() == 1


def test_the_queue_takes_part_once_it_is_full_and_its_epoch_has_come():
    labeler = SwAVLabeler(A, K, D, queue_length=12, queue_from_epoch=2)
    seen = steps(labeler, range(4))
    for number, (x, code) in enumerate(seen):
        plain = sinkhorn(x @ PROTOTYPES.T)
        before = [y for y, _ in seen[:number]][::-1]
        queued = torch.cat([x, *before], 1)[:, : N + 12]
        expected = sinkhorn(queued @ PROTOTYPES.T)[:, :N] if number >= 4 else plain
        torch.testing.assert_close(code, expected, msg=str(number))
        assert number < 4 or not torch.allclose(code, plain, atol=1e-3)
    assert torch.equal(labeler.queue, torch.cat([seen[7][0], seen[6][0]], 1)[:, :12])


def test_a_queue_longer_than_its_epochs_waits_until_it_is_full():
    labeler = SwAVLabeler(A, K, D, queue_length=24, queue_from_epoch=0)
    phases = []
    for epoch in range(3):
        steps(labeler, [epoch])
        phases.append(labeler.phase)
    assert phases == [0, 0, 1]  # 16 features an epoch


def test_a_labeler_goes_on_within_an_epoch_as_it_was_saved():
    whole, parts = (SwAVLabeler(A, K, D, queue_length=12, queue_from_epoch=1) for _ in range(2))
    steps(whole, range(2))
    parts.load_state_dict(whole.state_dict())
    parts.continue_epoch(1)
    x, idx = units(2, N, D, seed=77), torch.arange(N)
    assert torch.equal(parts.step(x, idx, PROTOTYPES), whole.step(x, idx, PROTOTYPES))
    assert parts.phase == 1


def test_a_process_gets_its_rows_of_the_codes_of_all():
    x, idx = units(2, N, D), torch.arange(N)
    whole = SwAVLabeler(A, K, D).step(x, idx, PROTOTYPES)
    own = SwAVLabeler(A, K, D).step(x, idx, PROTOTYPES, slice(2, 5))
    assert torch.equal(own, whole[:, 2:5])


def test_what_does_not_fit_is_refused():
    labeler = SwAVLabeler(A, K, D)
    x, idx = units(2, N, D), torch.arange(N)
    with pytest.raises(ValueError, match=r'features and prototypes \(2, 8, 6\) and \(5, 6\)'):
        labeler.step(x[0], idx, PROTOTYPES)
    with pytest.raises(ValueError, match=r'but got .*\(4, 6\)'):
        labeler.step(x, idx, PROTOTYPES[:4])
    with pytest.raises(ValueError, match='the label table has 40 samples'):
        labeler.step(x, idx + A, PROTOTYPES)
    with pytest.raises(ValueError, match='features of 1 of 8 samples are NaN'):
        labeler.step(x.where(torch.arange(N)[:, None] != 3, float('nan')), idx, PROTOTYPES)
    assert not labeler.queue.any() and labeler.num_stored == 0


# ---- loss


def test_each_view_predicts_the_codes_of_the_others():
    """Two full-size views and two small crops, as the sum over pairs; its gradient, too."""
    scores = [s.requires_grad_() for s in torch.randn(4, 3, K, generator=torch.Generator())]
    code = torch.rand(2, 3, K).softmax(-1)
    loss = swapped_prediction_loss(scores, code, temperature=0.1)
    pairs = [
        -(code[c] * (scores[v] / 0.1).log_softmax(1)).sum(1).mean()
        for c in range(2)
        for v in range(4)
        if v != c
    ]
    expected = sum(pairs) / 6
    torch.testing.assert_close(loss, expected)
    ours, theirs = (torch.autograd.grad(x, scores) for x in (loss, expected))
    torch.testing.assert_close(ours, theirs)


def test_the_loss_of_a_uniform_prediction_is_ln_k():
    code = torch.eye(K)[None].repeat(2, 1, 1)
    loss = swapped_prediction_loss([torch.zeros(K, K)] * 2, code, temperature=0.1)
    assert loss.item() == pytest.approx(torch.tensor(float(K)).log().item())


# ---- prototypes


@pytest.fixture
def head():
    torch.manual_seed(0)
    return SwAVHead(D, K, freeze_epochs=1)


def test_frozen_prototypes_get_no_gradient_and_the_features_their_own(head):
    head.normalize_prototypes()
    x, code = [units(4, D, seed=i).requires_grad_() for i in range(2)], torch.rand(2, 4, K)
    grads = []
    for epoch in range(2):
        head.set_epoch(epoch)
        loss = head.loss(x, code)['loss']
        grads.append(torch.autograd.grad(loss, [head.prototypes.weight, *x]))
    assert not grads[0][0].any() and grads[1][0].any()
    torch.testing.assert_close(grads[0][1:], grads[1][1:])


def test_prototypes_have_length_one_before_each_batch(head):
    head.prototypes.weight.data *= 3
    weight = head.normalize_prototypes()
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(K))
    assert weight.data_ptr() == head.prototypes.weight.data_ptr()
    x = units(4, D)
    torch.testing.assert_close(head(5 * x), x @ weight.T)


class Note(Hook):
    """The direction of the prototypes when an epoch begins."""

    priority = 'LOWEST'

    def __init__(self):
        self.seen = []

    def before_train_epoch(self, runner):
        self.seen.append(normalize(runner.model.head.prototypes.weight.detach().clone(), dim=1))


def test_in_training_prototypes_stay_for_the_first_epochs_and_then_move(tmp_path):
    """Also when the run is resumed while they are frozen."""
    cfg = tiny('swav', tmp_path, num_images=200)
    cfg.model.head.freeze_epochs = 2
    cfg.train_cfg.max_epochs = 1
    train(cfg)
    cfg.merge_from_dict({'resume': True, 'train_cfg.max_epochs': 4})
    runner = build_runner(cfg)
    runner.register_hook(note := Note())
    runner.train()
    epoch_1, epoch_2, epoch_3 = note.seen
    torch.testing.assert_close(epoch_1, epoch_2, atol=1e-6, rtol=0)
    assert (epoch_3 - epoch_2).abs().max() > 1e-3


def test_a_queue_of_another_length_is_named_when_a_run_is_resumed():
    def shapes(length):
        labelers = torch.nn.ModuleList([SwAVLabeler(A, K, D, queue_length=length)])
        return labelers, {f'labelers.{n}': x.shape for n, x in labelers.state_dict().items()}

    labelers, own = shapes(16)
    check_labeler_state(labelers, own, resume=True)
    message = r'samples, 0.queue \(2, 8, 6\), but .* samples, 0.queue \(2, 16, 6\)'
    with pytest.raises(ValueError, match=message):
        check_labeler_state(labelers, shapes(8)[1], resume=True)


# ---- algorithm


def test_views_of_other_kinds_are_refused_with_a_remedy():
    init_default_scope('mmcoke')
    model = MODELS.build(tiny('swav').model)
    model.init_labelers(A)
    full, small = torch.randn(2, 1, 16, 16), torch.randn(2, 1, 10, 10)
    for views in (full, [full], [full, small], [full, full, small, full]):
        with pytest.raises(ValueError, match='two views per image of full size'):
            model.loss(views, torch.arange(2))
    assert model.loss([full, full, small], torch.arange(2))['loss'].isfinite()


def test_codes_come_from_the_full_size_views_and_small_crops_predict_them(monkeypatch):
    init_default_scope('mmcoke')
    torch.manual_seed(0)
    model = MODELS.build(tiny('swav').model).eval()
    model.init_labelers(A)
    full, small = torch.randn(2, 4, 1, 16, 16), torch.randn(2, 4, 1, 10, 10)
    heard = {}
    monkeypatch.setattr(model.head, 'loss', lambda x, code: heard.update(x=x, code=code))
    model.loss([*full, *small], torch.arange(4))
    assert [len(x) for x in heard['x']] == [4] * 4
    weight = model.head.prototypes.weight
    for view in range(2):
        x = normalize(model.project(full[view]), dim=1)
        torch.testing.assert_close(
            heard['code'][view], sinkhorn(x @ weight.T, temperature=0.03), atol=1e-4, rtol=1e-3
        )


def test_a_step_asks_nothing_of_the_device(tmp_path, monkeypatch):
    """As in test_captured.py; with and without the queue."""
    monkeypatch.setattr(torch, 'autocast', lambda *args, **kwargs: nullcontext())
    model = build_runner(tiny('swav', tmp_path)).model
    model.init_labelers(100)
    model.to('meta').train()
    assert model.capturable
    images = [torch.empty(64, 1, size, size, device='meta') for size in (16, 16, 10)]
    keys = set()
    for phase in (0, 1):
        model.labelers[0].phase = phase  # set_epoch reads a number, once an epoch
        loss = model.loss(images, torch.empty(64, dtype=torch.int64, device='meta'))['loss']
        assert loss.device.type == 'meta'
        keys.add(model.step_key())
    assert len(keys) == 2


def test_the_hook_tells_labeler_and_head_the_epoch():
    head = SwAVHead(D, K, freeze_epochs=3)
    labeler = SwAVLabeler(A, K, D, queue_length=4, queue_from_epoch=3)
    labeler.num_stored.fill_(4)
    model = torch.nn.Module()
    model.labelers, model.head = torch.nn.ModuleList([labeler]), head
    states = []
    for epoch in (2, 3):
        loop = SimpleNamespace(done=0)
        SwAVHook().before_train_epoch(SimpleNamespace(model=model, epoch=epoch, train_loop=loop))
        states.append((labeler.phase, head.grad_scale.item()))
    assert states == [(0, 0.0), (1, 1.0)]


# ---- recipe


def test_the_recipe_for_imagenet_is_the_published_one():
    """The authors' small-batch recipe: 256 images and 0.6; the rate is linear in the batch."""
    cfg = Config.fromfile(CONFIGS / 'swav/swav_r50_8xb64-mcrop_in1k.py')
    optimizer, schedule = cfg.optim_wrapper.optimizer, cfg.param_scheduler[0]
    images = 8 * cfg.train_dataloader.batch_size
    assert cfg.auto_scale_lr.base_batch_size == images
    assert optimizer.lr == pytest.approx(0.6 * images / 256)
    assert schedule.eta_min_ratio == pytest.approx(0.0006 / 0.6)
    assert schedule.T_max == schedule.end == cfg.train_cfg.max_epochs == 400
    assert (optimizer.type, optimizer.weight_decay) == ('LARS', 1e-6)
    assert cfg.model.clustering == dict(
        num_clusters=3000,
        temperature=0.05,
        num_iters=3,
        queue_length=3840,
        queue_from_epoch=15,
    )
    assert (cfg.model.head.temperature, cfg.model.head.freeze_epochs) == (0.1, 1)
    neck = cfg.model.neck
    assert (neck.hid_channels, neck.out_channels, neck.num_layers) == (2048, 128, 2)
    crops = cfg.train_pipeline[-2].views
    assert [(view.size, view.scale) for view in crops] == [
        *[(224, (0.14, 1.0))] * 2,
        *[(96, (0.05, 0.14))] * 6,
    ]
    jitter, grey, blur = cfg.model.data_preprocessor.views[0]
    names = ('brightness', 'contrast', 'saturation', 'hue', 'p')
    assert [jitter[name] for name in names] == [0.8, 0.8, 0.8, 0.2, 0.8]
    assert (grey.p, blur.p) == (0.2, 0.5)
    assert len(cfg.model.data_preprocessor.views) == 8
