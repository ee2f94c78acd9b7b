"""A run that was interrupted anywhere, and resumed, ends as the run that was not."""

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import spy_hook  # noqa: F401 (SignalHook)
from conftest import tiny
from mmengine.hooks import Hook
from mmengine.runner import Runner
from test_resume import assert_same

from mmcoke.engine.interruption import StopSignals, WorkerInit, command
from mmcoke.engine.launch import build_runner, train
from mmcoke.files import read_checkpoint

LENGTH = 9  # iterations of an epoch
FEW = dict(num_images=300)
WORKERS = {'train_dataloader.num_workers': 2, 'train_dataloader.persistent_workers': True}


def interrupt(cfg, iteration, signum=signal.SIGTERM):
    """Train until a signal comes; the status that the program ends with."""
    cfg = cfg.copy()
    hook = dict(type='SignalHook', iteration=iteration, signum=int(signum))
    cfg.custom_hooks = [*cfg.custom_hooks, hook]
    with pytest.raises(SystemExit) as stop:
        train(cfg)
    return stop.value.code


def resume(cfg, **changes):
    cfg = cfg.copy()
    cfg.merge_from_dict(dict(resume=True, **changes))
    train(cfg)


def saved(cfg):
    """Checkpoints of interruptions."""
    return list(Path(cfg.work_dir).glob('interrupted_*'))


def final(cfg):
    path = Path(cfg.work_dir) / f'epoch_{cfg.train_cfg.max_epochs}.pth'
    checkpoint = read_checkpoint(path)
    return {part: checkpoint[part] for part in ('state_dict', 'optimizer', 'param_schedulers')}


WHOLE = {}


def run(method, folder, change):
    """The end of an uninterrupted run, and the config of another one, to be interrupted."""
    cfg = tiny(method, folder / 'work_dir', **FEW)
    cfg.merge_from_dict({'train_cfg.max_epochs': 3, 'train_dataloader.batch_size': 32} | change)
    key = f'{method} {change}'
    if key not in WHOLE:
        whole = cfg.copy()
        whole.work_dir = str(folder / 'whole')
        train(whole)
        WHOLE[key] = final(whole)
    return WHOLE[key], cfg


ENTROPY = {'model.clustering.constraint': 'entropy'}
STAGE_2 = {'model.clustering.average_from_epoch': 1}
PLACES = dict(first_epoch=7, middle=LENGTH + 4, last_of_an_epoch=2 * LENGTH, last=3 * LENGTH)
CASES = [('coke', {}, iteration) for iteration in PLACES.values()]
CASES += [
    (method, change, PLACES[place])
    for method, change in (
        ('coke', STAGE_2),
        ('deepcluster', {}),
        ('deepclusterv2', {}),
        ('odc', {}),
        ('secu', ENTROPY),
        ('sela', {}),
        ('swav', {}),
    )
    for place in ('middle', 'last_of_an_epoch')
]
CASES += [
    ('coke', {'train_dataloader.num_workers': 2}, PLACES['middle']),
    ('odc', WORKERS, PLACES['middle']),
    # Two and a half steps of the optimizer in an epoch; the signal comes between two of them.
    ('coke', {'optim_wrapper.accumulative_counts': 2}, LENGTH + 3),
    ('deepcluster', {'optim_wrapper.accumulative_counts': 4}, 2 * LENGTH),
]


@pytest.mark.parametrize(('method', 'change', 'iteration'), CASES)
def test_interrupted_in_any_iteration_and_resumed_equals_uninterrupted(
    tmp_path, method, change, iteration
):
    whole, parts = run(method, tmp_path, change)
    assert interrupt(parts, iteration) == 128 + signal.SIGTERM
    assert len(saved(parts)) == 1
    resume(parts)
    assert_same(whole, final(parts))
    assert not saved(parts)  # a regular one has followed


def test_one_that_was_interrupted_twice_is_resumed_from_the_second(tmp_path):
    whole, parts = run('coke', tmp_path, {})
    interrupt(parts, LENGTH + 2)
    parts.resume = True
    interrupt(parts, LENGTH + 5)
    assert [path.name for path in saved(parts)] == ['interrupted_epoch_2_iter_5.pth']
    note = Path(parts.work_dir) / 'last_checkpoint'
    assert Path(note.read_text()).name == 'interrupted_epoch_2_iter_5.pth'
    resume(parts)
    assert_same(whole, final(parts))


class FailHook(Hook):
    """Fails after an iteration, counted from 1 over all epochs, and after all other hooks."""

    priority = 'LOWEST'

    def __init__(self, iteration):
        self.iteration = iteration

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.iteration:
            raise RuntimeError('the power is gone')


@pytest.mark.parametrize('method', ['coke', 'odc'])
def test_saving_by_time_changes_nothing_and_costs_no_more_than_that_time(tmp_path, method):
    whole, parts = run(method, tmp_path, {})
    parts.save_minutes = 1e-9  # after every iteration
    runner = build_runner(parts)
    runner.register_hook(FailHook(LENGTH + 4))
    with pytest.raises(RuntimeError, match='power'):
        runner.train()
    assert [path.name for path in saved(parts)] == ['interrupted_epoch_2_iter_4.pth']
    resume(parts)
    assert_same(whole, final(parts))
    assert not saved(parts)


def test_without_a_limit_or_before_it_nothing_is_saved_by_time(tmp_path):
    cfg = tiny('coke', tmp_path / 'work_dir', **FEW)
    for number, minutes in enumerate([0, 10]):
        cfg.work_dir, cfg.save_minutes = str(tmp_path / str(number)), minutes
        runner = build_runner(cfg)
        runner.register_hook(FailHook(2))
        with pytest.raises(RuntimeError, match='power'):
            runner.train()
        assert not saved(cfg)
    cfg.save_minutes = -1
    with pytest.raises(ValueError, match='save_minutes'):
        build_runner(cfg)


def test_by_time_too_gradients_are_complete(tmp_path):
    cfg = tiny('coke', tmp_path / 'work_dir', **FEW)
    cfg.merge_from_dict({'optim_wrapper.accumulative_counts': 2, 'train_dataloader.batch_size': 32})
    cfg.save_minutes = 1e-9
    runner = build_runner(cfg)
    runner.register_hook(FailHook(LENGTH + 3))
    with pytest.raises(RuntimeError, match='power'):
        runner.train()
    assert [path.name for path in saved(cfg)] == ['interrupted_epoch_2_iter_2.pth']


@pytest.mark.parametrize('method', ['coke', 'deepcluster', 'odc', 'secu', 'swav'])
def test_workers_that_live_through_all_epochs_change_nothing(tmp_path, method):
    """In the first epoch of a process, a loader with such workers draws a random number."""
    alone, parts = run(method, tmp_path, {})
    parts.merge_from_dict(WORKERS)
    train(parts)
    assert_same(alone, final(parts))
    # As if it had been resumed from the end of an epoch, which brings new workers.
    first = Path(parts.work_dir) / 'epoch_1.pth'
    resume(parts, load_from=str(first))
    assert_same(alone, final(parts))


@pytest.mark.parametrize('method', ['coke', 'deepcluster', 'odc', 'swav'])
def test_no_gradient_waits_for_the_next_epoch(tmp_path, method):
    """Nine batches an epoch, two in a step: the ninth makes a step of its own."""
    steps = []
    cfg = tiny(method, tmp_path / 'work_dir', **FEW)
    cfg.merge_from_dict({'optim_wrapper.accumulative_counts': 2, 'train_dataloader.batch_size': 32})
    runner = build_runner(cfg)
    runner.register_hook(StepHook(steps))
    runner.train()
    assert steps == 3 * ([False, True] * 4 + [True])
    whole = final(cfg)
    resume(cfg, load_from=str(Path(cfg.work_dir) / 'epoch_1.pth'))
    assert_same(whole, final(cfg))


class StepHook(Hook):
    """Notes in which iterations the weights change."""

    def __init__(self, steps):
        self.steps = steps

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.before = [p.detach().clone() for p in runner.model.backbone.parameters()]

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        after = runner.model.backbone.parameters()
        changed = any((a != b).any() for a, b in zip(after, self.before, strict=True))
        # In CoKe's first epoch the learning rate is 0.
        self.steps.append(
            changed if runner.iter >= LENGTH else runner.optim_wrapper.should_update()
        )


def test_a_checkpoint_within_an_epoch_refuses_other_epochs_and_loops(tmp_path):
    cfg = tiny('coke', tmp_path / 'work_dir', **FEW)
    cfg.train_dataloader.batch_size = 32
    interrupt(cfg, LENGTH + 4)
    cfg.resume = True
    other = cfg.copy()
    other.train_dataloader.batch_size = 16
    with pytest.raises(ValueError, match=r'middle of an epoch of 9 batches of 32 .* is 18 '):
        train(other)
    cfg.load_from = str(saved(cfg)[0])
    cfg.train_cfg = dict(by_epoch=True, max_epochs=cfg.train_cfg.max_epochs)
    runner = Runner.from_cfg(cfg)
    with pytest.raises(ValueError, match='EpochBasedTrainLoop cannot go on'):
        runner.train()


@pytest.mark.parametrize('signum', [signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_each_signal_ends_with_its_status_and_the_command_that_goes_on(
    tmp_path, signum, monkeypatch, capfd
):
    monkeypatch.setattr(sys, 'orig_argv', ['py', 'tools/train.py', 'my config.py', '--resume', 'x'])
    cfg = tiny('coke', tmp_path / 'work_dir', **FEW)
    assert interrupt(cfg, 2, signum) == 128 + signum
    said = capfd.readouterr().err
    checkpoint = Path(cfg.work_dir) / 'interrupted_epoch_1_iter_2.pth'
    assert f'Stopped by {signal.Signals(signum).name}: {checkpoint} is saved' in said
    assert said.rstrip().endswith("\n  py tools/train.py 'my config.py' --resume")
    assert checkpoint.is_file()


def test_before_training_a_signal_ends_at_once_and_says_that_there_is_no_checkpoint(
    tmp_path, monkeypatch, capfd
):
    def build(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail('goes on')

    monkeypatch.setattr('mmcoke.engine.launch.Runner.from_cfg', build)
    monkeypatch.setattr(sys, 'orig_argv', ['py', 'tools/train.py', 'c.py'])
    with pytest.raises(SystemExit) as stop:
        train(tiny('coke', tmp_path / 'work_dir'))
    assert stop.value.code == 128 + signal.SIGTERM
    said = capfd.readouterr().err
    assert 'before training had begun' in said
    assert f'no checkpoint in {tmp_path}/work_dir; start again:\n  py tools/train.py c.py\n' in said


def busy_run(reading):
    """A run that is stuck in a long call, as in k-means; a child process."""
    with StopSignals('work_dir') as signals:
        signals.training = True
        os.write(reading, b'.')
        # A call that no signal interrupts, so that Python's handlers never run: a lock, twice.
        lock, mutex = ctypes.CDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(128)
        lock(mutex)
        lock(mutex)


def test_a_second_ctrl_c_ends_at_once_even_a_long_call(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    reading, writing = os.pipe()
    process = multiprocessing.get_context('fork').Process(target=busy_run, args=[writing])
    process.start()
    os.read(reading, 1)
    os.kill(process.pid, signal.SIGINT)
    said = ''
    while 'SIGINT: saving after this iteration' not in said:
        assert process.is_alive()
        said += capfd.readouterr().err
    os.kill(process.pid, signal.SIGINT)
    process.join()
    assert process.exitcode == 128 + signal.SIGINT
    assert 'nothing was saved now. There is no checkpoint in work_dir' in capfd.readouterr().err


def parent_of_a_worker(needed):
    """Forks a worker as a data loader does, which gets the signals of its group."""
    with StopSignals('work_dir') as signals:
        signals.training = True
        signals.needs_workers.fill_(needed)
        reading, writing = os.pipe()
        child = multiprocessing.get_context('fork').Process(
            target=worker, args=[signals.needs_workers, writing]
        )
        child.start()
        os.read(reading, 1)
        for signum in (signal.SIGINT, signal.SIGINT, signal.SIGUSR1, signal.SIGTERM):
            os.kill(child.pid, signum)
        child.join()
        # 7 is its own end, after more than one signal; 0 that of a worker without work.
        sys.exit(child.exitcode if not signals.received else 1)


def worker(needed, writing):
    WorkerInit(None, needed)(0)
    os.write(writing, b'.')
    while not signal.getitimer(signal.ITIMER_REAL)[0]:  # until SIGTERM has come
        time.sleep(0.01)
    os._exit(7)


@pytest.mark.parametrize(('needed', 'status'), [(True, 7), (False, 0)])
def test_workers_outlive_signals_to_their_group_while_they_are_needed(needed, status):
    process = multiprocessing.get_context('fork').Process(target=parent_of_a_worker, args=[needed])
    process.start()
    process.join()
    assert process.exitcode == status


@pytest.mark.parametrize(
    ('typed', 'kept'),
    [
        ('train.py c.py --resume', 'train.py c.py'),
        ('train.py --resume x.pth c.py', 'train.py c.py'),
        ('train.py --resume=x.pth c.py', 'train.py c.py'),
        ('train.py c.py --res --amp', 'train.py c.py --amp'),
        ("train.py 'a b.py' --cfg-options a=1", "train.py 'a b.py' --cfg-options a=1"),
    ],
)
def test_the_command_that_goes_on_is_the_one_typed(typed, kept, monkeypatch):
    monkeypatch.setenv('MMCOKE_COMMAND', typed)
    assert command(resume=False) == kept
    assert command(resume=True) == f'{kept} --resume'
