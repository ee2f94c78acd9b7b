"""Settings on the command line mean what was typed."""

from argparse import ArgumentParser

import pytest
from mmengine.config import Config

from mmcoke.cli.options import ABSENT, add_options, merge_options, value_of

TYPED = [
    # paths and names: to the letter
    ('train_dataloader.dataset.data_root', 'pics/My Photos', 'old', 'pics/My Photos'),
    ('train_dataloader.dataset.data_root', '2024', 'old', '2024'),
    ('train_dataloader.dataset.data_root', 'a,b', 'old', 'a,b'),
    ('train_dataloader.dataset.data_root', '[raw]', ABSENT, '[raw]'),
    ('train_dataloader.dataset.data_root', "it's 'mine'", 'old', "it's 'mine'"),
    ('load_from', '1e5', None, '1e5'),
    ('load_from', 'None', 'old', None),
    ('model.backbone.init_cfg.prefix', 'backbone.', ABSENT, 'backbone.'),
    ('work_dir', ' a ', 'old', ' a '),
    ('data_prefix', "{'img_path': 'a b'}", 'old', {'img_path': 'a b'}),
    ('experiment_name', '2024', None, '2024'),
    # numbers, lists, words
    ('train_cfg.max_epochs', '20', 5, 20),
    ('optim_wrapper.loss_scale', '512.', 'dynamic', 512.0),
    ('lr', '1e-3', 0.1, 1e-3),
    ('resume', 'true', False, True),
    ('indices', '1,2', 5, [1, 2]),
    ('indices', '[1, 2]', ABSENT, [1, 2]),
    ('betas', '(0.9,0.95)', (0.9, 0.99), (0.9, 0.95)),
    ('names', 'a,b', ['c'], ['a', 'b']),
    ('names', '[a,b]', ABSENT, ['a', 'b']),
    ('title', 'a, b', ABSENT, 'a, b'),
    ('title', 'one two', 3, 'one two'),
    ('title', '"20"', 3, '20'),
    ('title', "'a,b'", ['c'], 'a,b'),
    ('title', '', 'old', ''),
    ('split', 'test', 'train', 'test'),
]


@pytest.mark.parametrize(('key', 'text', 'now', 'value'), TYPED)
def test_a_value_is_what_was_typed(key, text, now, value):
    found = value_of(key, text, now)
    assert found == value and type(found) is type(value)


def test_options_override_nested_settings_and_lists():
    parser = ArgumentParser()
    add_options(parser, 'a=1')
    words = ['--cfg-options', 'a.b=x y', 'c.0.d=2', 'new.root=1,2', '--cfg-options', 'a.k=v=w']
    options = parser.parse_args(words).cfg_options
    cfg = Config(dict(a=dict(b='z'), c=[dict(d=1)]))
    merge_options(cfg, options)
    assert cfg.to_dict() == dict(a=dict(b='x y', k='v=w'), c=[dict(d=2)], new=dict(root='1,2'))


def test_the_home_folder_is_meant_wherever_a_config_names_a_path(monkeypatch):
    monkeypatch.setenv('HOME', '/home/me')
    dataset = dict(data_root='~/photos', ann_file='a~b', note='~/kept')
    cfg = Config(dict(loader=dict(dataset=dataset), hooks=[dict(checkpoint='~/x.pth')]))
    merge_options(cfg, dict(load_from='~/my run/epoch_1.pth', work_dir='~'))
    assert cfg.loader.dataset == dict(data_root='/home/me/photos', ann_file='a~b', note='~/kept')
    assert cfg.hooks[0].checkpoint == '/home/me/x.pth'
    assert (cfg.load_from, cfg.work_dir) == ('/home/me/my run/epoch_1.pth', '/home/me')


def test_what_is_no_option_is_refused(capsys):
    parser = ArgumentParser()
    add_options(parser, 'a=1')
    for word in ('a', '=1'):
        with pytest.raises(SystemExit):
            parser.parse_args(['--cfg-options', word])
        assert 'takes KEY=VALUE' in capsys.readouterr().err
