"""LARS and the learning-rate curve equal the published ones."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmcoke.engine import LARS, WarmupCosineLR
from mmcoke.registry import OPTIMIZERS, PARAM_SCHEDULERS

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / 'tests/golden'
RECIPE = ROOT / 'configs/selfsup/coke/coke_r50_8xb64_in1k.py'


def test_lars_takes_the_published_steps():
    golden = {key: torch.from_numpy(value) for key, value in np.load(GOLDEN / 'lars.npz').items()}
    params = [torch.nn.Parameter(golden[f'init_{i}'].clone()) for i in range(5)]
    settings = ('weight_decay', 'momentum', 'trust_coefficient')
    optimizer = LARS(params, lr=1.0, **{name: golden[name].item() for name in settings})
    for step, lr in enumerate(golden['lr'].tolist()):
        optimizer.param_groups[0]['lr'] = lr
        for i, param in enumerate(params):
            param.grad = golden[f'grad_{i}'][step].clone()
        optimizer.step()
        for i, param in enumerate(params):
            expected = golden[f'param_{i}'][step]
            torch.testing.assert_close(param.data, expected, rtol=0, atol=1e-6)


KERNELS = """
import itertools, sys
import numpy as np, torch
from mmcoke.engine.optimizers import lars
from mmcoke.engine.optimizers.lars import LARS

def fused(self, p):  # as on a GPU
    return lars.lies_alike(p, p.grad, self.state[p]['momentum_buffer'])

golden = {key: torch.from_numpy(value) for key, value in np.load(sys.argv[1]).items()}
settings = ('weight_decay', 'momentum', 'trust_coefficient')
params = [torch.nn.Parameter(golden[f'init_{i}'].clone()) for i in range(5)]
optimizer = LARS(params, lr=1.0, **{name: golden[name].item() for name in settings})
with_kernels = type('WithKernels', (LARS,), dict(_is_fusable=fused))
optimizer.__class__ = with_kernels
for step, lr in enumerate(golden['lr']):
    optimizer.param_groups[0]['lr'] = lr.float()
    for i, param in enumerate(params):
        param.grad = golden[f'grad_{i}'][step].clone()
    optimizer.step()
    for i, param in enumerate(params):
        torch.testing.assert_close(param.data, golden[f'param_{i}'][step], rtol=0, atol=1e-6)

# More than one block per tensor, channels last, gaps, half precision, a zero tensor.
def tensors():
    torch.manual_seed(0)
    wide = torch.randn(3, 9000)
    channels_last = torch.randn(6, 4, 3, 3).contiguous(memory_format=torch.channels_last)
    return [wide, wide.clone()[:, ::2], channels_last, torch.zeros(5, 5), torch.randn(4099),
            torch.randn(9, 5).bfloat16()]

results = []
for kind in (LARS, with_kernels):
    params = [torch.nn.Parameter(x) for x in tensors()]
    optimizer = kind(params, lr=0.5, weight_decay=0.1)
    for _ in range(3):
        for p in params:
            p.grad = torch.randn_like(p)
        optimizer.step()
    results.append([*params, *(state['momentum_buffer'] for state in optimizer.state.values())])
assert [len(key) for key in optimizer._kernels] == [3, 1]  # matrices and vectors in kernels
for expected, result in zip(*results):
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec('triton') is None, reason='needs Triton, which torch for CPUs lacks')
def test_the_kernels_take_the_published_steps_and_those_of_the_plain_path():
    command = [sys.executable, '-c', KERNELS, str(GOLDEN / 'lars.npz')]
    environment = os.environ | dict(TRITON_INTERPRET='1')
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_a_learning_rate_in_a_tensor_gives_the_same_steps():
    results = []
    for lr in (0.3, torch.tensor(0.3)):
        param = torch.nn.Parameter(torch.linspace(-1, 1, 12).view(3, 4))
        vector = torch.nn.Parameter(torch.ones(3))
        optimizer = LARS([param, vector], lr=lr, weight_decay=0.1)
        for factor in (1, 2):
            if isinstance(lr, torch.Tensor):
                lr.fill_(0.3 * factor)  # as a graph's learning rate changes: in place
            else:
                optimizer.param_groups[0]['lr'] = 0.3 * factor
            param.grad, vector.grad = param.data.sin(), torch.full((3,), 0.5)
            optimizer.step()
        results.append(torch.cat([param.data.flatten(), vector.data]))
    torch.testing.assert_close(*results)
    assert results[0][-1] == pytest.approx(1 - 0.3 * 0.5 - 0.6 * (0.9 * 0.5 + 0.5))


def test_lars_leaves_zero_weights_and_missing_gradients_alone():
    zero, unused = torch.nn.Parameter(torch.zeros(2, 2)), torch.nn.Parameter(torch.ones(2, 2))
    optimizer = LARS([zero, unused], lr=0.1, momentum=0.0)
    zero.grad = torch.ones(2, 2)
    optimizer.step()
    torch.testing.assert_close(zero.data, torch.full((2, 2), -0.1))  # trust ratio 1
    assert torch.equal(unused.data, torch.ones(2, 2))


def test_lars_resumes_from_its_state():
    def steps(optimizer, param, grads):
        for grad in grads:
            param.grad = grad
            optimizer.step()

    grads = list(torch.randn(6, 3, 4))
    whole = torch.nn.Parameter(torch.ones(3, 4))
    steps(LARS([whole], lr=0.5, weight_decay=0.1), whole, grads)
    first = torch.nn.Parameter(torch.ones(3, 4))
    optimizer = LARS([first], lr=0.5, weight_decay=0.1)
    steps(optimizer, first, grads[:3])
    second = torch.nn.Parameter(first.data.clone())
    resumed = LARS([second], lr=0.0)
    resumed.load_state_dict(optimizer.state_dict())
    steps(resumed, second, grads[3:])
    assert torch.equal(second.data, whole.data)


def test_lars_refuses_negative_numbers():
    with pytest.raises(ValueError, match='lr'):
        LARS([torch.nn.Parameter(torch.ones(1))], lr=-0.1)


def test_lars_of_mmcoke_is_the_one_in_our_scope():
    assert OPTIMIZERS.get('LARS') is LARS


@pytest.mark.parametrize(('epochs', 'iters'), [(21, 10), (1001, 3)])
def test_recipe_follows_the_published_learning_rate_curve(epochs, iters):
    golden = np.load(GOLDEN / f'lr_{epochs}epochs_{iters}iters.npz')
    (settings,) = Config.fromfile(RECIPE).param_scheduler
    kind = PARAM_SCHEDULERS.get(settings.pop('type'))
    assert kind is WarmupCosineLR and settings.pop('convert_to_iter_based')
    param = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([param], lr=float(golden['base_lr']))
    scheduler = kind.build_iter_from_epoch(optimizer, **settings, end=epochs, epoch_length=iters)
    curve = []
    for _ in range(epochs * iters):
        curve.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(curve, golden['lr'], rtol=1e-6, atol=0)


def test_a_warmup_from_a_share_of_the_rate_and_a_cosine_to_another():
    """DeepCluster-v2's: 0, then 0.1 to 1 in 3 steps, then half a cosine to 0.2 in 4."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    factors = dict(start_factor=0.1, end_factor=0.2)
    scheduler = WarmupCosineLR(optimizer, zero=1, warmup=3, begin=0, end=8, **factors)
    found = []
    for _ in range(8):
        found.append(optimizer.param_groups[0]['lr'] / 2)
        optimizer.step()
        scheduler.step()
    half = 0.8 * 0.5**0.5 / 2
    assert found == pytest.approx([0, 0.1, 0.4, 0.7, 1, 0.6 + half, 0.6, 0.6 - half])


def test_a_trial_shorter_than_the_warmup_follows_the_warmup():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = WarmupCosineLR(optimizer, zero=1, warmup=10, begin=0, end=4)
    curve = []
    for _ in range(4):
        curve.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        scheduler.step()
    assert curve == pytest.approx([0, 0.1, 0.1, 0.2])


def test_a_schedule_without_an_end_is_refused():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(ValueError, match='needs an end'):
        WarmupCosineLR(optimizer)


def curve(epochs, iters, steps=None, state=None, lr=1.0):
    """Learning rates of a schedule, resumed from a state if there is one; and its last state."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    options = dict(zero=1, warmup=2, end=epochs, epoch_length=iters)
    scheduler = WarmupCosineLR.build_iter_from_epoch(optimizer, **options)
    if state:
        scheduler.load_state_dict(state)
    values = []
    for _ in range(steps or epochs * iters - max(0, scheduler.last_step)):
        values.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        scheduler.step()
    return values, scheduler.state_dict()


def test_a_resumed_schedule_goes_on_as_if_not_stopped():
    whole, _ = curve(10, 4)
    first, state = curve(10, 4, steps=20)
    assert first + curve(10, 4, state=state)[0] == whole


@pytest.mark.parametrize(('epochs', 'iters', 'lr'), [(10, 2, 2.0), (10, 8, 1.0), (14, 4, 1.0)])
def test_a_resumed_schedule_follows_the_present_settings(epochs, iters, lr):
    """Another number of processes (iterations per epoch), scaled base, or more epochs."""
    _, state = curve(10, 4, steps=20)
    whole, _ = curve(epochs, iters, lr=lr)
    assert curve(epochs, iters, state=state, lr=lr)[0] == whole[5 * iters :]


def test_a_curve_resumed_behind_its_end_stays_at_0():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    for warmup in (2, 3):  # with a cosine of one iteration, and without
        scheduler = WarmupCosineLR(optimizer, zero=1, warmup=warmup, begin=0, end=4)
        state = dict(scheduler.state_dict(), last_step=9, _global_step=10)
        scheduler.load_state_dict(state)
        assert optimizer.param_groups[0]['lr'] == 0
