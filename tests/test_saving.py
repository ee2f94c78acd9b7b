"""Saving during training: a good checkpoint is always there, and trouble is told in one line."""

import copy
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import tiny
from mmengine.hooks import Hook
from mmengine.runner import runner as mmengine_runner

from mmcoke.engine import checkpoint as checkpoints
from mmcoke.engine.checkpoint import checkpoint_to_resume
from mmcoke.engine.config_text import FormattedOnce
from mmcoke.engine.hooks import CheckpointHook
from mmcoke.engine.launch import build_runner, train
from mmcoke.files import read_checkpoint
from mmcoke.registry import HOOKS


def names(folder):
    return sorted(path.name for path in Path(folder).glob('*.pth'))


@pytest.fixture
def keep_one(tiny_config):
    tiny_config.default_hooks.checkpoint.max_keep_ckpts = 1
    return tiny_config


@pytest.fixture
def full_from(monkeypatch):
    """From this epoch on, the disk is full."""

    def full(epoch, write=checkpoints.save_torch):
        def save(content, path):
            write(content, path)
            if content['meta']['epoch'] >= epoch:
                write(content, '/dev/full')

        monkeypatch.setattr(checkpoints, 'save_torch', save)

    return full


def test_the_old_checkpoint_stays_until_the_new_one_is_whole(keep_one, monkeypatch):
    seen, write = [], checkpoints.save_torch

    def save(content, path):
        write(content, path)
        seen.append(names(keep_one.work_dir))

    monkeypatch.setattr(checkpoints, 'save_torch', save)
    train(keep_one)
    assert seen == [[], ['epoch_1.pth'], ['epoch_2.pth']]
    assert names(keep_one.work_dir) == ['epoch_3.pth']


def test_a_full_disk_ends_training_with_the_last_good_checkpoint(keep_one, full_from):
    full_from(2)
    with pytest.raises(SystemExit) as caught:
        train(keep_one)
    message = str(caught.value)
    assert '\n' not in message
    assert 'epoch_2.pth could not be written (No space left on device)' in message
    last = Path(keep_one.work_dir) / 'epoch_1.pth'
    assert f'--resume {last}' in message
    assert names(keep_one.work_dir) == ['epoch_1.pth']
    assert not list(Path(keep_one.work_dir).glob('.*.tmp'))

    full_from(9)
    keep_one.merge_from_dict(dict(resume=True, load_from=str(last)))
    train(keep_one)
    assert names(keep_one.work_dir) == ['epoch_3.pth']


def test_a_full_disk_before_the_first_checkpoint_says_that_there_is_none(tiny_config, full_from):
    full_from(1)
    with pytest.raises(SystemExit, match='There is no checkpoint yet'):
        train(tiny_config)


def test_the_best_checkpoint_is_replaced_after_the_new_one_is_whole(tmp_path, monkeypatch):
    """Scores of two validations, the second better."""
    cfg = tiny('coke', tmp_path / 'work_dir')
    cfg.default_hooks.checkpoint.update(save_best='acc', rule='greater')
    runner = build_runner(cfg)
    hook = next(hook for hook in runner.hooks if isinstance(hook, CheckpointHook))
    hook.before_train(runner)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    seen = []

    def save(out_dir, filename, *args, **kwargs):
        Path(out_dir, filename).touch()
        seen.append(names(out_dir))

    monkeypatch.setattr(runner, 'save_checkpoint', save)
    for epoch, score in ((1, 0.5), (2, 0.6), (2, 0.7)):
        runner.train_loop._epoch = epoch
        hook.after_val_epoch(runner, dict(acc=score))
    first, second = ('best_acc_epoch_1.pth', 'best_acc_epoch_2.pth')
    assert seen == [[first], [first, second], [second]]
    assert names(cfg.work_dir) == [second]


@pytest.fixture
def formatted(monkeypatch):
    """Texts that were formatted."""
    texts = []
    monkeypatch.setattr(
        'mmengine.config.config.FormatCode',
        lambda text, **_: (texts.append(text), (text + '# formatted', True))[1],
    )
    return texts


def test_a_run_formats_its_config_once_for_all_its_checkpoints(tiny_config, formatted):
    tiny_config.default_hooks.checkpoint.max_keep_ckpts = -1
    train(tiny_config)
    assert len(formatted) == 1
    for name in names(tiny_config.work_dir):
        saved = read_checkpoint(Path(tiny_config.work_dir) / name)
        assert saved['meta']['cfg'] == f'{formatted[0]}# formatted'
    assert len(names(tiny_config.work_dir)) == 3


def test_the_text_of_a_config_follows_its_changes(tiny_config, formatted):
    cfg = FormattedOnce.of(tiny_config)
    assert cfg.pretty_text == tiny_config.pretty_text == copy.deepcopy(cfg).pretty_text
    cfg.model.head.temperature = 0.77
    assert 'temperature=0.77' in cfg.pretty_text
    assert pickle.loads(pickle.dumps(cfg)).pretty_text == cfg.pretty_text
    assert len(formatted) == 4  # ours, theirs, after the change, what was pickled


def test_leftovers_of_a_killed_run_go_when_training_starts(tiny_config):
    left = Path(tiny_config.work_dir) / '.epoch_7.pth.4194305.tmp'
    left.parent.mkdir()
    left.touch()
    tiny_config.train_cfg.max_epochs = 1
    train(tiny_config)
    assert not left.exists()


@pytest.mark.parametrize('below', ['', 'sub/work_dir'])
def test_a_work_dir_that_cannot_be_made_is_told_before_training(tiny_config, tmp_path, below):
    (tmp_path / 'file').touch()
    tiny_config.work_dir = str(tmp_path / 'file' / below)
    with pytest.raises(SystemExit, match=r'^Nothing can be written to the work dir .*--work-dir'):
        train(tiny_config)


def test_a_work_dir_that_is_removed_on_the_way_is_told_in_one_line(tiny_config, monkeypatch):
    def save(*_):
        shutil.rmtree(tiny_config.work_dir)
        Path(tiny_config.work_dir).touch()
        Path(tiny_config.work_dir, 'epoch_1.pth').write_bytes(b'')

    monkeypatch.setattr(checkpoints, 'save_torch', save)
    with pytest.raises(SystemExit, match=r'could not be written \(Not a directory\)'):
        train(tiny_config)


def test_a_work_dir_that_vanishes_between_checkpoints_is_told_in_one_line(tiny_config):
    """The log notices first."""
    tiny_config.default_hooks.checkpoint.interval = 2
    tiny_config.custom_hooks.append(dict(type='RemovesWorkDir'))
    with pytest.raises(SystemExit, match=r'\.json could not be written .* no checkpoint yet'):
        train(tiny_config)


@HOOKS.register_module()
class RemovesWorkDir(Hook):
    def after_train_epoch(self, runner):
        shutil.rmtree(runner.work_dir)


def test_a_damaged_checkpoint_is_refused_and_the_offered_one_works(tiny_config):
    """The last has a flipped bit, the one before is cut off."""
    tiny_config.default_hooks.checkpoint.max_keep_ckpts = -1
    train(tiny_config)
    third, second = (Path(tiny_config.work_dir) / f'epoch_{i}.pth' for i in (3, 2))
    with zipfile.ZipFile(third) as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
    content = bytearray(third.read_bytes())
    content[largest.header_offset + largest.file_size // 2] ^= 1  # not in the padding
    third.write_bytes(content)
    second.write_bytes(second.read_bytes()[:-100])
    tiny_config.resume = True
    with pytest.raises(ValueError, match=r'is damaged: .* --resume (.*)$') as caught:
        checkpoint_to_resume(tiny_config.work_dir)
    offered = str(caught.value).split()[-1]
    assert offered == str(Path(tiny_config.work_dir) / 'epoch_1.pth')
    tiny_config.load_from = offered
    train(tiny_config)
    assert read_checkpoint(third)['meta']['epoch'] == 3


def test_weights_that_match_nothing_are_refused_by_load_from(tmp_path):
    cfg = classifier(tmp_path)
    model = build_runner(cfg).model
    state = {n.removeprefix('backbone.'): x for n, x in model.state_dict().items()}
    torch.save(dict(state_dict=state), tmp_path / 'a.pth')
    cfg.load_from = str(tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r'Only 0 of \d+ backbone keys matched in .*init_cfg'):
        build_runner(cfg).load_or_resume()


def test_a_head_for_other_classes_is_no_obstacle_to_load_from(tmp_path):
    cfg = classifier(tmp_path)
    torch.save(dict(state_dict=build_runner(cfg).model.state_dict()), tmp_path / 'a.pth')
    cfg.merge_from_dict({'load_from': str(tmp_path / 'a.pth'), 'model.head.num_classes': 7})
    runner = build_runner(cfg)
    runner.load_or_resume()
    state = torch.load(tmp_path / 'a.pth', weights_only=True)['state_dict']
    for name, x in runner.model.backbone.state_dict().items():
        torch.testing.assert_close(x, state[f'backbone.{name}'], rtol=0, atol=0)


def classifier(folder):
    """A config of a small classifier, without data."""
    cfg = tiny('coke', folder / 'work_dir')
    cfg.model = dict(
        type='ImageClassifier',
        backbone=dict(type='ResNet', depth=18, base_channels=8, stem_channels=8),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=5, in_channels=64),
    )
    cfg.pop('custom_hooks')
    return cfg


def test_mmengine_saves_by_our_function():
    assert mmengine_runner.save_checkpoint is checkpoints.save_checkpoint
