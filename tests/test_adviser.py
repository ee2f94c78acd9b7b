"""Each rule is provoked by real training on the digits, and silent once its advice is taken."""

import json
import math
import signal
from pathlib import Path

import numpy as np
import pytest
import spy_hook  # noqa: F401 (SignalHook)
import torch
from conftest import CONFIGS, DIGITS, SMALL, fork_ranks, tiny
from mmengine.config import Config, DictAction
from mmengine.model import BaseModel
from torch.nn.functional import normalize

from mmcoke.engine.advice import Facts, advice_after, advice_before, chance_nmi, gain
from mmcoke.engine.hooks.adviser_hook import ADVICE
from mmcoke.engine.hooks.cluster_monitor_hook import STATS
from mmcoke.engine.launch import train
from mmcoke.engine.work_dir import resume_last
from mmcoke.models import CoKe
from mmcoke.models.algorithms.base import global_batch
from mmcoke.registry import MODELS

KEYS = ['epoch', 'clustering', 'rule', 'saw', 'why', 'setting', 'advice']
LR, DUAL_LR = 'optim_wrapper.optimizer.lr', 'model.clustering.dual_lr'
NUM_CLUSTERS, WARMUP = 'model.clustering.num_clusters', 'param_scheduler.0.warmup'
NARROW = {'model.backbone.channels': SMALL['model.backbone.channels'], WARMUP: 2}
"""A recipe whose backbone alone is small: it learns, within few epochs."""


def lines_of(work_dir):
    path = work_dir / ADVICE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def advice_of(cfg, work_dir, epochs, **options):
    """The lines of ``advice.jsonl`` by rule, after so many epochs."""
    cfg.merge_from_dict({'train_cfg.max_epochs': epochs, **options})
    cfg.work_dir = cfg.experiment_name = str(work_dir)
    cfg.default_hooks.checkpoint.interval = 1000
    train(cfg)
    return {line['rule']: line for line in lines_of(work_dir)}


def narrow(method, num_images):
    """The digits recipe of a method, on the first images alone, with a small backbone."""
    cfg = Config.fromfile(DIGITS[method])
    cfg.merge_from_dict(NARROW)
    cfg.train_dataloader.dataset.indices = num_images
    return cfg


def options_in(setting):
    """As ``--cfg-options`` reads them."""
    pairs = (pair.split('=', 1) for pair in setting.split())
    return {key: DictAction._parse_iterable(value) for key, value in pairs}


PROVOCATIONS = {
    'many_clusters': (lambda: tiny('coke', num_images=64), 1, {NUM_CLUSTERS: [8, 16]}),
    'small_batch_norm': (
        lambda: tiny('coke', num_images=320),
        1,
        {'train_dataloader.batch_size': 4},
    ),
    'oscillating_duals': (lambda: narrow('coke', 640), 6, {DUAL_LR: 20.0}),
    'starved_clusters': (lambda: narrow('coke', 640), 8, {DUAL_LR: 0.05}),
    'one_cluster': (
        lambda: tiny('coke', num_images=320),
        9,
        {NUM_CLUSTERS: [4, 8], WARMUP: 2, 'model.clustering.min_ratio': 1e-6},
    ),
    'constant_features': (lambda: tiny('selflabel', num_images=320), 7, {LR: 5.0}),
    'loss_at_chance': (lambda: tiny('sela', num_images=320), 13, {LR: 0.0005}),
    'unsettled_labels': (
        lambda: narrow('coke', 320),
        24,
        {LR: 2.0, NUM_CLUSTERS: [8, 12]},
    ),
    'diverging_loss': (lambda: tiny('swav', num_images=320), 7, {LR: 20.0}),
}
"""Of each rule a recipe, epochs, and options that spoil it."""

SETTINGS = {
    'many_clusters': {NUM_CLUSTERS: [2, 2], DUAL_LR: 0.062},
    'small_batch_norm': {'train_dataloader.batch_size': 32},
    # g K N / (γ A) = 0.3 x 32 x 64 / (0.4 x 640)
    'oscillating_duals': {DUAL_LR: 2.4},
    'starved_clusters': {DUAL_LR: 2.4},
    'one_cluster': {'model.clustering.min_ratio': 0.4},
    'constant_features': {LR: 0.5},
    'loss_at_chance': {LR: 0.005},
    'unsettled_labels': {LR: 0.2},
    'diverging_loss': {LR: 2},
}


@pytest.mark.parametrize('rule', PROVOCATIONS)
def test_what_goes_wrong_is_seen_and_the_advice_mends_it(rule, tmp_path):
    recipe, epochs, spoilt = PROVOCATIONS[rule]
    found = advice_of(recipe(), tmp_path / 'spoilt', epochs, **spoilt)
    assert rule in found
    assert list(found[rule]) == KEYS
    remedy = options_in(found[rule]['setting'])
    assert list(remedy) == list(SETTINGS[rule])
    assert all(remedy[key] == pytest.approx(value) for key, value in SETTINGS[rule].items())
    assert rule not in advice_of(recipe(), tmp_path / 'mended', epochs, **(spoilt | remedy))


@pytest.mark.slow
@pytest.mark.parametrize('path', sorted(CONFIGS.glob('*/*_digits.py')), ids=lambda path: path.stem)
def test_recipes_begin_without_advice(path, tmp_path):
    """The start alone, where most changes; tests of whole runs follow."""
    assert advice_of(Config.fromfile(path), tmp_path, 8) == {}


# ---- when it is said


def test_what_is_known_before_training_is_on_the_screen_though_the_run_is_quiet(tmp_path, capfd):
    cfg = tiny('coke', num_images=64)
    found = advice_of(cfg, tmp_path, 1, **{NUM_CLUSTERS: [8, 16], 'quiet': True})
    assert found['many_clusters']['epoch'] == 0
    said = [line for line in capfd.readouterr().err.splitlines() if '--cfg-options' in line]
    assert said == [
        'coke/16: 16 clusters for 64 images, 4.0 in each on average. So few have little in common '
        'but chance: clusters tell images apart, not kinds. Take 25 images per cluster or more. '
        "(--cfg-options 'model.clustering.num_clusters=[2,2]' model.clustering.dual_lr=0.062)"
    ]


@pytest.fixture(scope='module')
def oscillating(tmp_path_factory):
    """Work dir of a run whose duals oscillate, stopped in its fourth epoch and resumed."""
    work_dir = tmp_path_factory.mktemp('work dir')
    cfg = narrow('coke', 320)
    cfg.custom_hooks.append(dict(type='SignalHook', iteration=3 * 5 + 2, signum=int(signal.SIGINT)))
    with pytest.raises(SystemExit):
        advice_of(cfg, work_dir, 8, **{DUAL_LR: 20.0, 'train_dataloader.batch_size': 64})
    assert lines_of(work_dir) == []
    cfg = narrow('coke', 320)
    cfg.resume = True
    cfg.work_dir = str(work_dir)
    resume_last(cfg)
    advice_of(cfg, work_dir, 8, **{DUAL_LR: 20.0})
    return work_dir


def test_a_resumed_run_knows_the_epochs_before_and_says_a_thing_once(oscillating):
    lines = lines_of(oscillating)
    assert [line['rule'] for line in lines].count('oscillating_duals') == 1
    said = next(line for line in lines if line['rule'] == 'oscillating_duals')
    assert 5 <= said['epoch'] <= 8  # those after the stop alone are four
    assert len({line['setting'] for line in lines}) == len(lines)


def test_advice_of_epochs_that_are_done_again_and_of_other_runs_is_forgotten(tmp_path):
    old = [dict(epoch=epoch, rule=f'rule {epoch}', setting='') for epoch in (0, 1, 2, 3)]
    cfg = tiny('coke', tmp_path, num_images=320)
    train(cfg)
    (tmp_path / ADVICE).write_text(''.join(json.dumps(line) + '\n' for line in old))
    (tmp_path / 'epoch_3.pth').unlink()
    cfg = tiny('coke', tmp_path, num_images=320)
    cfg.resume, cfg.load_from = True, str(tmp_path / 'epoch_2.pth')
    train(cfg)
    assert lines_of(tmp_path) == old[:3]
    for path in tmp_path.glob('*.pth'):
        path.unlink()
    train(tiny('coke', tmp_path, num_images=320))
    assert lines_of(tmp_path) == []


def test_of_several_processes_one_advises_and_writes_curves(tmp_path):
    options = ['train_dataloader.batch_size=4', 'train_dataloader.dataset.indices=64']
    options += ['train_cfg.max_epochs=1', 'model.clustering.num_clusters=[2,4]']
    codes, said = fork_ranks(
        2,
        *('train.py', DIGITS['coke'], '--work-dir', tmp_path / 'out', '--cfg-options', *options),
        folder=tmp_path,
    )
    assert codes == [0, 0], said
    assert [line['rule'] for line in lines_of(tmp_path / 'out')] == ['small_batch_norm']
    assert said.count('Batch norm sees 4 images') == 1
    assert len(list((tmp_path / 'out').rglob('events.out.tfevents.*'))) == 1


def test_a_loss_that_is_not_finite_ends_with_the_setting_to_change(tmp_path):
    cfg = tiny('deepcluster', num_images=320)
    with pytest.raises(ValueError, match=r'optim_wrapper\.optimizer\.lr=1e\+29'):
        advice_of(cfg, tmp_path, 2, **{LR: 1e30})


@pytest.mark.parametrize('off', [['adviser'], ['cluster_monitor'], ['adviser', 'cluster_monitor']])
def test_adviser_and_monitor_are_turned_off_as_the_docs_say(off, tmp_path):
    options = options_in(' '.join(f'default_hooks.{name}=None' for name in off))
    advice_of(tiny('coke', num_images=64), tmp_path, 1, **{NUM_CLUSTERS: [8, 16]}, **options)
    assert (tmp_path / ADVICE).exists() == ('adviser' not in off)
    assert (tmp_path / STATS).exists() == ('cluster_monitor' not in off)


def test_a_model_without_clusterings_is_trained_without_monitor_and_advice(tmp_path):
    cfg = tiny('coke', tmp_path, num_images=64)
    cfg.model = dict(
        type='OfAnotherPackage',
        data_preprocessor=cfg.model.data_preprocessor,
        backbone=cfg.model.backbone,
    )
    cfg.custom_hooks = []
    cfg.train_cfg = dict(by_epoch=True, max_epochs=2)
    train(cfg)
    assert not (tmp_path / ADVICE).exists() and not (tmp_path / STATS).exists()
    (log,) = tmp_path.glob('*/*.log')
    assert log.read_text().count('OfAnotherPackage has no labelers, so no clustering') == 1


def test_an_algorithm_that_does_not_show_its_features_is_measured_without_them(tmp_path):
    cfg = tiny('coke', tmp_path, num_images=320)
    cfg.model.type = 'CoKeInTheDark'
    train(cfg)
    lines = [json.loads(line) for line in (tmp_path / STATS).read_text().splitlines()]
    assert len(lines) == 6 and all('max_dual' in line for line in lines)
    assert not any('feature_std' in line or 'margin' in line for line in lines)
    (log,) = tmp_path.glob('*/*.log')
    assert log.read_text().count('CoKeInTheDark has no features of its last step') == 1


@MODELS.register_module()
class CoKeInTheDark(CoKe):
    """An algorithm from elsewhere, which sets no ``seen``."""

    hook = 'CoKeHook'

    def _targets(self, projections, idx_n):
        units = [normalize(x_nD.detach().float(), dim=1) for x_nD in projections]
        return self.labelers.step(*global_batch(torch.stack(units).mean(0), idx_n))


@MODELS.register_module()
class OfAnotherPackage(BaseModel):
    """A model that clusters nothing."""

    def __init__(self, backbone, data_preprocessor):
        super().__init__(data_preprocessor)
        self.backbone = MODELS.build(backbone)

    def forward(self, inputs, data_samples=None, mode='loss', **kwargs):
        inputs = inputs[0] if isinstance(inputs, list) else inputs
        return dict(loss=self.backbone(inputs)[-1].square().mean())


# ---- numbers


FACTS = Facts(
    method='CoKe',
    clustering=dict(num_clusters=[3000, 5000], dual_lr=20.0, dual_lr_base_batch_size=1024),
    num_clusters={'coke/3000': 3000, 'coke/5000': 5000},
    num_images=1_281_167,
    batch_size=64,
    num_processes=8,
    num_normalized=64,
    lr=0.8,
    max_epochs=1000,
    dual_lr=10.0,
    min_ratio=0.4,
)
"""The published recipe for ImageNet, on 8 x 64 images."""


def rows(number, **numbers):
    healthy = dict(
        violation=0.0, num_small=0, num_empty=0, max_size=400, perplexity=4900.0, margin=0.1
    )
    healthy |= dict(positive_duals=0.5, max_dual=0.3, feature_std=0.9, effective_rank=90.0)
    healthy |= dict(changed=0.5, nmi=0.8, loss=6.0, lr=0.8)
    one = [dict(epoch=epoch + 1) | healthy | numbers for epoch in range(number)]
    return dict.fromkeys(FACTS.num_clusters, one)


def test_rates_are_those_of_the_batch_that_the_config_names():
    # An epoch without an image: 20 x 0.4 x 1,281,167 / (5000 x 1024), docs/methods/coke.md.
    assert gain(FACTS, 5000) == pytest.approx(2.0, rel=0.01)
    starving = rows(6, violation=0.2, num_small=4000)
    low = FACTS._replace(dual_lr=0.05)
    advice = advice_after(low, starving)['starved_clusters']
    # For 512 images η = 0.3 x 5000 x 512 / (0.4 x 1,281,167) = 1.5; for 1024 twice as much.
    assert advice.setting == 'model.clustering.dual_lr=3'
    # Where 20 for 1024 starves them, three times as much, but one image moves a dual by 0.05.
    advice = advice_after(FACTS, starving)['starved_clusters']
    assert advice.setting == 'model.clustering.dual_lr=51'


def test_one_of_the_settings_of_a_method_is_named():
    collapsed = rows(6, max_size=1_000_000, perplexity=1.5)

    def setting(**facts):
        return advice_after(FACTS._replace(**facts), collapsed)['one_cluster'].setting

    assert setting() == 'model.clustering.min_ratio=0.9'
    assert setting(min_ratio=1e-6) == 'model.clustering.min_ratio=0.4'
    entropy = dict(constraint='entropy', alpha=6000.0)
    no_duals = dict(dual_lr=None, min_ratio=0.0)
    assert setting(method='SeCu', clustering=entropy, **no_duals) == (
        'model.clustering.alpha=1.54e+05'  # 0.12 A
    )
    assert setting(method='SwAV', clustering={}, **no_duals) == 'optim_wrapper.optimizer.lr=0.08'


def test_healthy_numbers_give_no_advice():
    assert advice_after(FACTS, rows(1000)) == {}


HEALTHY = Path(__file__).with_name('golden') / 'healthy_runs.npz'
"""Numbers of all epochs of the digits recipes, run by themselves; see the README beside it."""


def recorded_runs():
    """Of each recipe, the rows (E, keys) of each clustering, by its name."""
    runs = {}
    with np.load(HEALTHY) as file:
        for name in sorted(set(file) - {'keys'}):
            recipe, clustering = name.split(':')
            runs.setdefault(recipe, {})[clustering] = file[name]
        return file['keys'].tolist(), runs


def facts_of_recipe(recipe, clusterings):
    (path,) = CONFIGS.glob(f'*/{recipe}.py')
    cfg = Config.fromfile(path)
    settings = cfg.model.clustering
    duals = dict(dual_lr=settings.dual_lr) if 'dual_lr' in settings else {}
    return FACTS._replace(
        method=cfg.model.type,
        clustering=settings,
        num_clusters={name: int(name.split('/')[1]) for name in clusterings},
        num_images=1257,
        num_processes=1,
        lr=cfg.optim_wrapper.optimizer.lr,
        max_epochs=cfg.train_cfg.max_epochs,
        **dict(dual_lr=None, min_ratio=settings.get('min_ratio', 0.4)) | duals,
    )


@pytest.mark.parametrize('recipe', recorded_runs()[1])
def test_no_epoch_of_a_healthy_run_gives_advice(recipe):
    keys, runs = recorded_runs()
    facts = facts_of_recipe(recipe, runs[recipe])
    history = {
        name: [dict(zip(keys, row, strict=True)) for row in table.tolist()]
        for name, table in runs[recipe].items()
    }
    history = {
        name: [{key: x for key, x in row.items() if not math.isnan(x)} for row in table]
        for name, table in history.items()
    }
    assert advice_before(facts) == {}
    for epochs in range(1, len(next(iter(history.values()))) + 1):
        assert advice_after(facts, {k: table[:epochs] for k, table in history.items()}) == {}


def test_labels_that_have_nothing_in_common_are_recognized():
    # The expected mutual information of independent labels is (K - 1)^2 / (2 A), in nats.
    facts = FACTS._replace(num_clusters={'coke/32': 32}, num_images=1257)
    assert chance_nmi(facts, 'coke/32') == pytest.approx(31**2 / (2 * 1257) / math.log(32))
