"""Settings and types that are misspelt: the message names the one that was meant."""

from argparse import Namespace

import pytest
import torch
from conftest import DIGITS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope

from mmcoke.cli.ending import explain
from mmcoke.cli.misspelt import check_keys
from mmcoke.cli.options import merge_options
from mmcoke.clustering import CoKeLabeler
from mmcoke.registry import HOOKS, MODELS, WEIGHT_INITIALIZERS


@pytest.fixture(scope='module')
def cfg():
    return Config.fromfile(DIGITS['coke'])


@pytest.mark.parametrize(
    ('key', 'meant'),
    [
        ('train_cfg.max_epoch', 'train_cfg.max_epochs'),
        ('trian_cfg.max_epochs', 'train_cfg'),
        ('model.clustering.num_cluster', 'model.clustering.num_clusters'),
        ('model.bakbone.depth', 'model.backbone'),
        ('custom_hooks.0.typ', 'custom_hooks.0.type'),
        ('optim_wrapper.optimizer.momentun', 'optim_wrapper.optimizer.momentum'),
        ('load_form', 'load_from'),
        ('work_dirs', 'work_dir'),  # which is not in the config, but may be
    ],
)
def test_a_misspelt_setting_is_refused_with_the_one_that_is_there(cfg, key, meant):
    with pytest.raises(ValueError, match=rf'The config has no .*\. Did you mean {meant}\?$'):
        check_keys(cfg, [key])


@pytest.mark.parametrize(
    'key',
    [
        'train_cfg.max_epochs',
        'val_dataloader.dataset.data_root',  # like train_dataloader, but the runner takes it
        'test_cfg',
        'model.neck.with_avg_pool',
        'model.neck.in_channels',  # like out_channels, but the neck takes it
        'default_hooks.checkpoint.by_epoch',
        'model.backbone.init_cfg.prefix',
        'my_own',
        'custom_hooks.7.interval',  # merge_options refuses it
    ],
)
def test_a_new_setting_is_taken_where_something_may_take_it(cfg, key):
    check_keys(cfg, [key])


def test_a_key_that_leads_nowhere_is_one_line(cfg):
    for key in ('custom_hooks.7.interval', 'log_level.x', 'custom_hooks.x.y'):
        with pytest.raises(ValueError, match='--cfg-options do not fit the config: '):
            merge_options(Config(cfg.to_dict()), {key: '1'})


def raised(build, *arguments, **settings):
    with pytest.raises((KeyError, TypeError)) as info:
        build(*arguments, **settings)
    return info.value


PARTS = dict(backbone={}, neck={}, head={})


@pytest.mark.parametrize(
    ('registry', 'settings', 'line'),
    [
        # it passes what it does not know on to the class above it, whose name the error has
        (
            MODELS,
            dict(type='CoKe', joint_view=True, **PARTS),
            "CoKe has no setting 'joint_view'. Did you mean joint_views?",
        ),
        (
            MODELS,
            dict(type='ResNet', depth=18, out_indice=(3,)),
            "ResNet has no setting 'out_indice'. Did you mean out_indices?",
        ),
        (HOOKS, dict(type='CoKeHook', interval=1), 'CoKeHook has no settings.'),
        (HOOKS, dict(type='KNNHook'), "KNNHook lacks settings: 'train' and 'test'."),
        (HOOKS, dict(type='LoggerHook', zzz=1), "LoggerHook has no setting 'zzz'."),
        (
            MODELS,
            dict(type='CoKee'),
            "There is no type 'CoKee' in the mmcoke::model registry. Did you mean CoKe?",
        ),
        (
            MODELS,
            dict(type='ResNt'),  # of mmpretrain
            "There is no type 'ResNt' in the mmcoke::model registry. Did you mean ResNet?",
        ),
        (
            WEIGHT_INITIALIZERS,
            dict(type='Pretraned'),
            "There is no type 'Pretraned' in the mmcoke::weight initializer registry. Did you mean "
            'Pretrained?',
        ),
    ],
)
def test_what_a_config_misspells_is_one_line_where_it_is_built(registry, settings, line):
    init_default_scope('mmcoke')
    assert explain(raised(registry.build, settings), Namespace()) == line


def test_settings_of_a_clustering_are_explained_too():
    error = raised(CoKeLabeler, 100, 10, dim=4, min_rato=0.5)
    line = "CoKeLabeler has no setting 'min_rato'. Did you mean min_ratio?"
    assert explain(error, Namespace()) == line


def test_a_misspelt_optimizer_is_explained_too():
    cfg = dict(optimizer=dict(type='SDG', lr=0.1))
    error = raised(build_optim_wrapper, torch.nn.Linear(1, 1), cfg)
    line = "There is no type 'SDG' in the optimizer registry. Did you mean SGD?"
    assert explain(error, Namespace()) == line


def test_other_errors_of_these_kinds_are_ours():
    assert explain(KeyError('x'), Namespace()) is None
    assert explain(TypeError('unsupported operand'), Namespace()) is None
