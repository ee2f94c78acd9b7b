"""One run per work dir, none overwritten, and the right one resumed."""

import multiprocessing
import os
import shutil
import signal
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from mmcoke import files
from mmcoke.cli.train import load_config
from mmcoke.engine.checkpoint import _described, checkpoint_to_resume, described
from mmcoke.engine.launch import build_runner, default_work_dir, train
from mmcoke.engine.work_dir import LOCK, resume_last, saved_optimizer, taken, without_workers
from mmcoke.files import check_sums, locked


@pytest.fixture
def cfg(tiny_config):
    """One epoch on few images."""
    tiny_config.merge_from_dict(
        {
            'train_dataloader.dataset.indices': 128,
            'train_cfg.max_epochs': 1,
            'param_scheduler': [],
            'log_level': 'ERROR',
        }
    )
    return tiny_config


@pytest.fixture
def said(monkeypatch):
    """What is said before there is a log."""
    messages = []
    monkeypatch.setattr(
        'mmcoke.engine.work_dir.print_log', lambda message, **_: messages.append(message)
    )
    return messages


def checkpoint(path, **content):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(a=1) | content, path)
    return path


def test_a_copied_work_dir_resumes_its_own_checkpoint(tmp_path):
    original = checkpoint(tmp_path / 'original/epoch_1.pth')
    (tmp_path / 'original/last_checkpoint').write_text(str(original))
    shutil.copytree(tmp_path / 'original', tmp_path / 'copy')
    assert checkpoint_to_resume(tmp_path / 'copy') == str(tmp_path / 'copy/epoch_1.pth')
    (tmp_path / 'copy/epoch_1.pth').unlink()
    with pytest.raises(ValueError, match=r'not in this folder.*--resume .*original/epoch_1\.pth'):
        checkpoint_to_resume(tmp_path / 'copy')


def test_best_and_published_checkpoints_are_not_resumed_from(tmp_path):
    for name in ('best_knn_epoch_3.pth', 'epoch_3-0123abcd.pth'):
        checkpoint(tmp_path / name)
    assert checkpoint_to_resume(tmp_path) is None


def test_training_again_in_a_used_folder_is_refused_and_loses_nothing(cfg):
    train(cfg)
    path = Path(cfg.work_dir) / 'epoch_1.pth'
    content = path.read_bytes()
    cfg.randomness.seed = 1
    with pytest.raises(ValueError, match=r'epoch_1\.pth.*--resume.*--work-dir.*remove it'):
        train(cfg)
    elsewhere = checkpoint(path.parent.parent / 'other/epoch_1.pth')
    cfg.merge_from_dict(dict(resume=True, load_from=str(elsewhere)))
    with pytest.raises(ValueError, match='would be overwritten'):
        train(cfg)
    assert path.read_bytes() == content


def test_a_folder_with_logs_only_is_used(cfg):
    folder = Path(cfg.work_dir) / '20260101_000000'
    folder.mkdir(parents=True)
    (folder / 'run.log').write_text('stopped before the first checkpoint')
    train(cfg)
    assert (folder.parent / 'epoch_1.pth').is_file()


def test_a_finished_run_is_said_and_left_as_it_is(cfg, said):
    model = train(cfg)
    path = Path(cfg.work_dir) / 'epoch_1.pth'
    content = path.read_bytes()
    cfg.resume = True
    again = train(cfg)
    assert 'is finished: 1 of 1 epochs' in said[0] and 'max_epochs=' in said[0]
    assert path.read_bytes() == content
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_resume_without_a_checkpoint_is_said(cfg, said):
    cfg.resume = True
    train(cfg)
    assert said == [f'There is no checkpoint in {cfg.work_dir} to resume from: training begins.']
    assert (Path(cfg.work_dir) / 'epoch_1.pth').is_file()


def test_resume_takes_the_last_checkpoint_and_else_the_weights_of_the_config(tmp_path, said):
    folder = tmp_path / 'run'
    (tmp_path / 'a.py').write_text(f"load_from = 'weights.pth'\nwork_dir = '{folder}'")
    options = dict(source=str(tmp_path / 'a.py'), out=None, amp=None, auto_scale_lr=False)
    args = Namespace(**options, resume='auto', cfg_options={}, skip_unreadable=False)
    cfg = load_config(args)
    assert (cfg.resume, cfg.load_from) == (False, 'weights.pth')
    assert 'no checkpoint' in said[0]
    last = str(checkpoint(folder / 'epoch_2.pth'))
    cfg = load_config(args)
    assert (cfg.resume, cfg.load_from) == (True, last)


@pytest.fixture
def read(monkeypatch):
    """Names of the checkpoints that were read, one for each time."""
    names = []
    monkeypatch.setattr(
        files, 'check_sums', lambda f: (names.append(Path(f.name).name), check_sums(f))
    )
    return names


@pytest.mark.parametrize('epochs', [1, 2])
def test_a_checkpoint_is_read_once_to_be_judged_and_once_to_be_loaded(cfg, read, epochs):
    """Whether the run is finished or goes on; nothing of it is kept."""
    train(cfg)
    cfg.train_cfg.max_epochs = epochs
    resume_last(cfg)  # as tools/train.py --resume does first
    train(cfg)
    assert read == ['epoch_1.pth', 'epoch_1.pth']
    assert _described.cache_info().currsize == 0


def test_a_checkpoint_that_changes_is_judged_anew(tmp_path, read):
    path = checkpoint(tmp_path / 'epoch_1.pth')
    assert described(path)['a'] == described(path)['a'] == 1
    checkpoint(path, a=2)
    assert described(path)['a'] == 2
    assert len(read) == 2


def test_what_cannot_be_resumed_is_refused_with_the_remedy(cfg):
    cfg.train_cfg.max_epochs = 2
    train(cfg)
    cfg.resume = True
    path = Path(cfg.work_dir) / 'epoch_2.pth'
    for change, message in (
        ({'train_cfg.max_epochs': 1}, r'epoch_2\.pth has 2 epochs, more than .*max_epochs=1'),
        (
            {'optim_wrapper.optimizer': dict(_delete_=True, type='AdamW', lr=1e-3)},
            r'optimizer SGD, the config has AdamW.*load_from',
        ),
    ):
        other = cfg.copy()
        other.merge_from_dict({'train_cfg.max_epochs': 3} | change)
        with pytest.raises(ValueError, match=message):
            train(other)
    state = torch.load(path, weights_only=True)
    torch.save(dict(state_dict=state['state_dict'], meta=state['meta']), path)
    cfg.train_cfg.max_epochs = 3
    with pytest.raises(ValueError, match=r'weights only.*load_from'):
        train(cfg)


def test_the_optimizer_of_a_checkpoint_is_read_and_not_run():
    text = "import os\nos.abort()\noptim_wrapper = dict(optimizer=dict(lr=1, type='mmcoke.LARS'))"
    assert saved_optimizer(text) == 'LARS'
    assert saved_optimizer('no (python') is None
    assert saved_optimizer('a = 1') is None


def hold(path, ready, worker):
    """Train, as it were, with a worker that loads images."""
    with locked(path, f'process {os.getpid()} on some host'):
        if pid := os.fork():
            worker.value = pid
            ready.set()
        signal.pause()


def test_a_second_run_in_a_work_dir_is_refused_until_the_first_is_dead(tmp_path):
    """Workers of a data loader live on for seconds, and do not count."""
    context = multiprocessing.get_context('fork')
    ready, worker = context.Event(), context.Value('i')
    other = context.Process(target=hold, args=(tmp_path / LOCK, ready, worker))
    other.start()
    assert ready.wait(60)
    message = rf'process {other.pid} on some host.*--work-dir'
    with pytest.raises(ValueError, match=message), taken(tmp_path):
        pass
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    assert worker.value > 0
    try:
        with taken(tmp_path):
            assert f'process {os.getpid()} on' in (tmp_path / LOCK).read_text()
    finally:
        os.kill(worker.value, signal.SIGKILL)


def test_of_many_processes_the_first_holds_the_lock(tmp_path, monkeypatch):
    monkeypatch.setenv('RANK', '1')
    with taken(tmp_path, 'pytorch'):
        assert not (tmp_path / LOCK).exists()
    monkeypatch.setenv('RANK', '0')
    with taken(tmp_path, 'pytorch'):
        assert (tmp_path / LOCK).exists()


def test_a_train_loader_without_workers_needs_no_other_change(cfg):
    cfg.train_dataloader.update(num_workers=0, persistent_workers=True, prefetch_factor=2)
    runner = build_runner(cfg)
    assert not runner.train_dataloader.persistent_workers
    cfg.train_dataloader.update(num_workers=2, persistent_workers=True)
    without_workers(cfg)
    assert cfg.train_dataloader.persistent_workers


def test_results_of_a_runs_own_config_go_to_the_run(tmp_path):
    run = tmp_path / 'my run'
    run.mkdir()
    assert default_work_dir(run / 'config.py') == os.path.join('work_dirs', 'config')
    (run / 'last_checkpoint').write_text('epoch_1.pth')
    assert default_work_dir(run / 'config.py') == str(run)
    assert default_work_dir('configs/coke.py') == os.path.join('work_dirs', 'coke')
