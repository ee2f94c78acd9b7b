"""A captured step does what a plain one does; nothing in it waits for the device.

There is no graph without a GPU: here what stands for one runs the captured step again, with the
settings that were there when it was captured. The tests marked ``gpu`` capture.
"""

from contextlib import nullcontext

import pytest
import torch
from conftest import tiny
from mmengine.hooks import LoggerHook
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from torch import nn

from mmcoke.clustering import CoKeLabeler
from mmcoke.engine import captured
from mmcoke.engine.captured import CapturedTrainLoop, obstacle
from mmcoke.engine.launch import build_runner, train
from mmcoke.engine.model_wrappers import unwrap
from mmcoke.engine.optimizers import LARS, BFloat16OptimWrapper
from mmcoke.engine.pending import Pending, is_due
from mmcoke.models import CoKe
from mmcoke.models.data_preprocessors.batch_augment import BatchAugmentPreprocessor


class Replays:
    """Stands for CUDA graphs: keeps what a capture would, and runs it again at a replay."""

    def __init__(self, monkeypatch):
        self.captures, self.replays, self.optimizer = 0, 0, None
        monkeypatch.setattr(captured, 'obstacle', lambda runner: None)
        monkeypatch.setattr(captured, 'capture', self.capture)
        monkeypatch.setattr(CapturedTrainLoop, '_stream_of_capture', lambda self: nullcontext())
        init = captured.CapturedStep.__init__

        def remember(step, function, batch, optimizer):
            self.optimizer = optimizer
            init(step, function, batch, optimizer)

        monkeypatch.setattr(captured.CapturedStep, '__init__', remember)

    def capture(self, step):
        self.captures += 1
        groups, losses = self.optimizer.param_groups, {}
        baked = [{k: v for k, v in group.items() if k != 'params'} for group in groups]

        def replay():
            self.replays += 1
            now = [{k: v for k, v in group.items() if k != 'params'} for group in groups]
            for group, settings in zip(groups, baked, strict=True):
                group.update(settings)
            losses.update(step())
            for group, settings in zip(groups, now, strict=True):
                group.update(settings)

        return replay, losses


def run(work_dir, loop, method='coke', **options):
    """Train the tiny recipe; the model, the logged losses and the runner's optimizer."""
    cfg = tiny(method, work_dir)
    cfg.train_cfg = dict(type=loop, max_epochs=cfg.train_cfg.max_epochs)
    cfg.train_dataloader.collate_fn = dict(type='mmcoke.unlabelled_batch')
    cfg.merge_from_dict(options)
    cfg.default_hooks.checkpoint.interval = 100
    runner = build_runner(cfg)
    runner.train()
    history = runner.message_hub.get_scalar('train/loss').data[0]
    return unwrap(runner.model), torch.tensor(history), runner.optim_wrapper.optimizer


def assert_same(one, other, tolerance=1e-4):
    """Weights, labels and losses of two runs agree within rounding."""
    (model, losses, _), (other_model, other_losses, _) = one, other
    torch.testing.assert_close(losses, other_losses, rtol=1e-4, atol=1e-5)
    theirs = other_model.state_dict()
    for name, value in model.state_dict().items():
        if name.endswith('.label'):
            assert (value.to(theirs[name].device) == theirs[name]).float().mean() > 0.995, name
        elif value.is_floating_point() and not name.startswith('labelers'):
            torch.testing.assert_close(
                value.cpu(), theirs[name].cpu(), rtol=1e-2, atol=tolerance, msg=name
            )


CASES = {
    'CoKe': ('coke', {}),
    'DeepCluster-v2': ('deepclusterv2', {}),
    'SeCu': ('secu', {}),
    'SeCu, entropy': ('secu', {'model.clustering.constraint': 'entropy'}),
}


@pytest.mark.parametrize(('method', 'change'), CASES.values(), ids=CASES)
def test_a_captured_step_does_what_a_plain_one_does(method, change, tmp_path, monkeypatch):
    plain = run(tmp_path / 'plain', 'EpochLoop', method, **change)
    replays = Replays(monkeypatch)
    graph = run(tmp_path / 'graph', 'CapturedTrainLoop', method, **change)
    assert replays.captures == 1
    assert replays.replays == len(plain[1]) - captured.NUM_PLAIN
    assert_same(plain, graph)
    before, after = (dict(x[2].param_groups[0], params=None) for x in (plain, graph))
    assert before == after  # what a capture sets is not left behind


def test_the_step_is_captured_again_where_the_second_stage_begins(tmp_path, monkeypatch):
    options = {
        'model.clustering.average_from_epoch': 1,
        'model.clustering.num_slots': 3,
        'train_cfg.max_epochs': 4,
    }
    plain = run(tmp_path / 'plain', 'EpochLoop', **options)
    replays = Replays(monkeypatch)
    graph = run(tmp_path / 'graph', 'CapturedTrainLoop', **options)
    assert replays.captures == 3  # hard labels; averages begin; soft targets
    assert_same(plain, graph)


def test_a_batch_of_another_shape_runs_plainly(tmp_path, monkeypatch):
    options = {'train_dataloader.drop_last': False, 'train_cfg.max_epochs': 2}
    plain = run(tmp_path / 'plain', 'EpochLoop', **options)
    replays = Replays(monkeypatch)
    graph = run(tmp_path / 'graph', 'CapturedTrainLoop', **options)
    assert replays.replays == len(plain[1]) - captured.NUM_PLAIN - 2  # the last of each epoch
    assert_same(plain, graph)


@pytest.mark.parametrize('optimizer', ['LARS', 'AdamW'])
def test_other_optimizers_take_their_rate_from_a_tensor(optimizer, tmp_path, monkeypatch):
    rate = dict(LARS=0.5, AdamW=1e-3)[optimizer]
    options = {
        'optim_wrapper.optimizer': dict(type=optimizer, lr=rate, _delete_=True),
        'train_cfg.max_epochs': 2,
    }
    plain = run(tmp_path / 'plain', 'EpochLoop', **options)
    replays = Replays(monkeypatch)
    if optimizer == 'AdamW':  # capturable exists on accelerators alone
        monkeypatch.setattr(captured, 'CAPTURABLE', {})
    graph = run(tmp_path / 'graph', 'CapturedTrainLoop', **options)
    assert replays.captures == 1
    # AdamW moves biases ahead of BN, whose gradient is rounding, by the rate nevertheless.
    assert_same(plain, graph, tolerance=0.1 if optimizer == 'AdamW' else 1e-4)


def test_a_failed_capture_says_why_and_training_goes_on(tmp_path, monkeypatch):
    plain = run(tmp_path / 'plain', 'EpochLoop')
    Replays(monkeypatch)

    def fail(step):
        raise RuntimeError('operation not permitted when stream is capturing')

    monkeypatch.setattr(captured, 'capture', fail)
    graph = run(tmp_path / 'graph', 'CapturedTrainLoop')
    assert_same(plain, graph)
    log = next((tmp_path / 'graph').rglob('*.log')).read_text()
    assert 'could not be captured in a CUDA graph (operation not permitted' in log


class On:
    """A runner, as far as :func:`obstacle` looks at it."""

    world_size = 1

    def __init__(self, model, wrapper):
        self.model, self.optim_wrapper = model, wrapper


@pytest.fixture
def parts(tmp_path):
    """A model on a device that stands for a GPU, and what makes its wrapper."""
    runner = build_runner(tiny('coke', tmp_path))
    model = unwrap(runner.model)
    fake = nn.Parameter(torch.zeros(1))
    fake.__class__ = type('OnGPU', (nn.Parameter,), dict(device=torch.device('cuda')))
    model.parameters = lambda: iter([fake])
    return model, torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)


def test_why_a_step_is_not_captured(parts, monkeypatch):
    model, sgd = parts
    assert obstacle(On(model, OptimWrapper(sgd))) is None
    assert obstacle(On(model, BFloat16OptimWrapper(sgd))) is None
    assert 'accumulated' in obstacle(On(model, OptimWrapper(sgd, accumulative_counts=2)))
    assert 'clipped' in obstacle(On(model, OptimWrapper(sgd, clip_grad=dict(max_norm=1.0))))
    rprop = torch.optim.LBFGS([torch.zeros(1, requires_grad=True)])
    assert 'LBFGS' in obstacle(On(model, OptimWrapper(rprop)))
    scaled = AmpOptimWrapper.__new__(AmpOptimWrapper)
    assert 'AmpOptimWrapper' in obstacle(On(model, scaled))
    several = On(model, OptimWrapper(sgd))
    several.world_size = 2
    assert 'several processes' in obstacle(several)
    kornia = [[dict(type='RandomPlanckianJitter')]]
    model.data_preprocessor = BatchAugmentPreprocessor(kornia, mean=[0.0], std=[1.0])
    assert 'random numbers' in obstacle(On(model, OptimWrapper(sgd)))
    assert 'on cpu' in obstacle(On(nn.Linear(1, 1), OptimWrapper(sgd)))


@pytest.mark.parametrize('method', ['deepcluster', 'odc'])
def test_methods_that_cannot_be_captured_say_so(method, tmp_path):
    model = unwrap(build_runner(tiny(method, tmp_path)).model)
    assert type(model).__name__ in model.obstacle_to_capture()


@pytest.mark.parametrize('joint_views', [False, True])
def test_a_step_asks_nothing_of_the_device(joint_views, tmp_path, monkeypatch):
    """On the device ``meta`` there are no values: whatever looks at one raises an error.

    No backward(): for another device than the CPU it starts threads, and no test could fork then.
    """
    monkeypatch.setattr(torch, 'autocast', lambda *args, **kwargs: nullcontext())  # unknown there
    cfg = tiny('coke', tmp_path)
    cfg.model.clustering.update(average_from_epoch=1, num_slots=3)
    cfg.model.joint_views = joint_views
    model = unwrap(build_runner(cfg).model)
    model.init_labelers(100)
    model.to('meta').train()
    idx = torch.empty(64, dtype=torch.int64, device='meta')
    data = dict(inputs=torch.empty(64, 1, 16, 16, dtype=torch.uint8, device='meta'), sample_idx=idx)
    for epoch in range(4):
        model.labelers.set_epoch(epoch)
        views = model.data_preprocessor(data, True)['inputs']
        for inputs in (views, views * 2):
            losses = model.loss(
                inputs, idx
            )  # with the gradient of the loss, which is computed along
            assert losses['loss'].device.type == 'meta'


@pytest.mark.parametrize('constraint', ['size', 'entropy'])
def test_a_step_of_secu_asks_nothing_of_the_device(constraint, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, 'autocast', lambda *args, **kwargs: nullcontext())
    cfg = tiny('secu', tmp_path)
    cfg.model.clustering.constraint = constraint
    model = unwrap(build_runner(cfg).model)
    model.init_labelers(100)
    model.to('meta').train()
    idx = torch.empty(64, dtype=torch.int64, device='meta')
    data = dict(inputs=torch.empty(64, 1, 16, 16, dtype=torch.uint8, device='meta'), sample_idx=idx)
    losses = model.loss(model.data_preprocessor(data, True)['inputs'], idx)
    assert losses['loss'].device.type == losses['center_ce'].device.type == 'meta'


def test_a_labeler_of_one_head_asks_nothing_of_the_device_either(monkeypatch):
    monkeypatch.setattr(torch, 'autocast', lambda *args, **kwargs: nullcontext())
    labeler = CoKeLabeler(100, 8, 4, average_from_epoch=1).to('meta')
    idx = torch.empty(64, dtype=torch.int64, device='meta')
    for epoch in range(4):
        labeler.set_epoch(epoch)
        target = labeler.step(torch.empty(64, 4, device='meta'), idx, slice(8))
        assert target.device.type == 'meta'
        assert target.shape == ((8, 8) if epoch > 1 else (8,))


def test_a_step_of_deepcluster_v2_asks_nothing_of_the_device_either(tmp_path, monkeypatch):
    """And the next epoch's labels and centers lie where a graph reads them."""
    monkeypatch.setattr(torch, 'autocast', lambda *args, **kwargs: nullcontext())
    model = unwrap(build_runner(tiny('deepclusterv2', tmp_path)).model)
    assert model.obstacle_to_capture() is None
    model.init_labelers(100)
    where, key = [x.data_ptr() for x in model.labelers.buffers()], model.step_key()
    model.labelers.step(torch.eye(8).repeat(12, 1), torch.arange(96))
    model.labelers.end_epoch()
    model.labelers.set_epoch(1)
    assert (where, key) == ([x.data_ptr() for x in model.labelers.buffers()], model.step_key())
    model.to('meta').train()
    idx = torch.empty(64, dtype=torch.int64, device='meta')
    images = torch.empty(64, 1, 16, 16, dtype=torch.uint8, device='meta')
    views = model.data_preprocessor(dict(inputs=images, sample_idx=idx), True)['inputs']
    assert model.loss(views, idx)['loss'].device.type == 'meta'


def test_lars_reads_its_rate_from_a_tensor():
    weights = [torch.randn(4, 3, generator=torch.Generator().manual_seed(0)) for _ in range(2)]
    one, other = (nn.Parameter(w.clone()) for w in (weights[0], weights[0]))
    optimizers = [LARS([one], lr=0.5), LARS([other], lr=0.5)]
    optimizers[1].param_groups[0]['lr'] = torch.tensor(0.5)
    for _ in range(3):
        for p, optimizer in zip((one, other), optimizers, strict=True):
            p.grad = weights[1].clone()
            optimizer.step()
    torch.testing.assert_close(one, other)


def test_pending_numbers_come_out_in_order():
    pending = Pending()
    for i in range(3):
        pending.add(dict(loss=torch.tensor(float(i)), part=torch.tensor([i + 0.5])))
    assert pending.take() == [dict(loss=float(i), part=i + 0.5) for i in range(3)]
    assert pending.take() == []


def test_numbers_are_read_where_they_are_logged(tmp_path, monkeypatch):
    """As on a GPU: all losses are in the log's history, with as many copies as logged lines."""
    plain = run(tmp_path / 'plain', 'EpochLoop')
    copies = []
    take = Pending.take
    monkeypatch.setattr(Pending, 'take', lambda self: copies.append(1) or take(self))
    for module in ('mmcoke.engine.hooks.runtime_info_hook', 'mmcoke.engine.hooks.labeler_hook'):
        monkeypatch.setattr(
            f'{module}.is_due', lambda runner, i, _: i + 1 == len(runner.train_dataloader)
        )
    late = run(tmp_path / 'late', 'EpochLoop')
    assert_same(plain, late, tolerance=0)
    # In each of three epochs: two hooks in its last iteration, one of them when it has ended,
    # and one before a checkpoint.
    assert len(copies) <= 3 * 4


def test_a_loss_that_is_not_finite_stops_before_anything_is_saved(tmp_path, monkeypatch):
    monkeypatch.setattr('mmcoke.engine.hooks.labeler_hook.is_due', lambda runner, i, outputs: False)
    cfg = tiny('coke', tmp_path)
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=6)
    factors, loss = iter([1.0] * 3 + [float('nan')] * 100), CoKe.loss
    monkeypatch.setattr(CoKe, 'loss', lambda *args: scaled(loss(*args), next(factors)))
    # On CPU, the clustering would see features that are not finite one iteration later.
    monkeypatch.setattr('mmcoke.clustering.coke.check_batch', lambda *args: None)
    with pytest.raises(ValueError, match='The loss is nan in epoch 1, iteration 4'):
        train(cfg)
    assert not list(tmp_path.rglob('*.pth'))


def scaled(losses, factor):
    return dict(losses, loss=losses['loss'] * factor)


def test_records_in_a_batch_are_not_captured(tmp_path, monkeypatch):
    """Their indices lie on the host: a graph would have those of one batch for ever."""
    options = {'train_dataloader.collate_fn.type': 'default_collate', 'train_cfg.max_epochs': 2}
    plain = run(tmp_path / 'plain', 'EpochLoop', **options)
    replays = Replays(monkeypatch)
    graph = run(tmp_path / 'graph', 'CapturedTrainLoop', **options)
    assert replays.captures == 0
    assert_same(plain, graph)
    log = next((tmp_path / 'graph').rglob('*.log')).read_text()
    assert "collate_fn=dict(type='mmcoke.unlabelled_batch')" in log


def test_is_due_on_a_device():
    class Runner:
        hooks, train_dataloader = [], range(7)

    runner, scalars = Runner(), dict(loss=torch.zeros((), device='meta'))
    runner.hooks = [LoggerHook(interval=3)]
    assert [is_due(runner, i, scalars) for i in range(7)] == [
        False, False, True, False, False, True, True,
    ]  # fmt: skip
    assert is_due(runner, 0, dict(loss=torch.zeros(())))


@pytest.mark.gpu
@pytest.mark.parametrize(('method', 'change'), CASES.values(), ids=CASES)
def test_the_graph_trains_as_plain_steps_do(method, change, tmp_path):
    plain = run(tmp_path / 'plain', 'EpochLoop', method, **change)
    graph = run(tmp_path / 'graph', 'CapturedTrainLoop', method, **change)
    assert obstacle.__name__ and not next((tmp_path / 'graph').rglob('*.log')).read_text().count(
        'not captured'
    )
    assert_same(plain, graph, tolerance=1e-2)


@pytest.mark.gpu
@pytest.mark.parametrize(('method', 'change'), CASES.values(), ids=CASES)
def test_no_step_waits_for_the_gpu(method, change, tmp_path):
    cfg = tiny(method, tmp_path)
    cfg.merge_from_dict(change)
    runner = build_runner(cfg)
    model = unwrap(runner.model)
    assert isinstance(model.data_preprocessor, BatchAugmentPreprocessor)
    model.init_labelers(1257)
    model.labelers.set_epoch(0)
    batch = dict(
        inputs=torch.zeros(64, 1, 16, 16, dtype=torch.uint8, device='cuda'),
        sample_idx=torch.arange(64, device='cuda'),
    )
    wrapper = runner.build_optim_wrapper(cfg.optim_wrapper)
    model.train_step(batch, wrapper)
    torch.cuda.set_sync_debug_mode('error')
    try:
        for _ in range(3):
            model.train_step(batch, wrapper)
    finally:
        torch.cuda.set_sync_debug_mode('default')
