"""Evaluation during pre-training: the number is right, and training does not notice."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.visualization import Visualizer
from test_distributed import dist_train

from mmcoke.datasets import InMemoryImages
from mmcoke.engine.hooks.probe_hooks import ProbeHook
from mmcoke.engine.launch import build_runner, train
from mmcoke.evaluation import extract_features, knn_classify, linear_probe
from mmcoke.registry import MODELS
from mmcoke.reporting.report import read_scalars

# Random on purpose: training must not see that numbers were drawn.
NOISY = [
    dict(type='RandomFlip', prob=0.5),
    dict(type='Resize', scale=(16, 16)),
    dict(type='PackInputs'),
]
PLAIN = NOISY[1:]


def digits(split, pipeline=PLAIN, **kwargs):
    return dict(type='InMemoryImages', source='digits', split=split, pipeline=pipeline, **kwargs)


def probe(kind, pipeline=PLAIN, **kwargs):
    return dict(type=kind, train=digits('train', pipeline), test=digits('test', pipeline), **kwargs)


NAMED = digits('train', metainfo=dict(classes='a'))


def scalars(cfg):
    """Curves of a run, without times."""
    curves = read_scalars(cfg.work_dir)
    return {k: v for k, v in curves.items() if not k.endswith(('time', 'seconds'))}


def final_state(cfg):
    path = Path(cfg.work_dir) / f'epoch_{cfg.train_cfg.max_epochs}.pth'
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize('method', ['coke', 'deepcluster', 'deepclusterv2', 'odc', 'secu', 'swav'])
def test_training_is_the_same_bit_for_bit_with_and_without(method, tmp_path):
    """Also without the hook that seeds each epoch anew, which would hide what was drawn."""
    runs = []
    for hooks in ([], [probe('KNNHook', NOISY, interval=1), probe('LinearProbeHook', interval=2)]):
        cfg = tiny(method, tmp_path / str(len(hooks)))
        del cfg.default_hooks.sample_seed
        cfg.custom_hooks += hooks
        train(cfg)
        runs.append((scalars(cfg), final_state(cfg)))
    (plain, without), (probed, with_hooks) = runs
    assert [step for step, _ in probed.pop('knn/acc')] == [1, 2, 3]
    assert [step for step, _ in probed.pop('linear_probe/acc')] == [2, 3]  # the last in any case
    assert plain == probed
    for part in ('state_dict', 'optimizer'):
        torch.testing.assert_close(with_hooks[part], without[part], rtol=0, atol=0)


def test_no_random_number_is_drawn_from_training(tiny_config):
    tiny_config.custom_hooks.append(probe('KNNHook', NOISY, interval=1))
    runner = build_runner(tiny_config)
    hook = next(hook for hook in runner.hooks if type(hook).__name__ == 'KNNHook')

    def states():
        _, *numpy_state = np.random.get_state()
        return torch.get_rng_state(), numpy_state, random.getstate()[1]

    before = states()
    hook.before_train(runner)
    runner.model.train()
    hook.after_train_epoch(runner)
    torch.testing.assert_close(states(), before, rtol=0, atol=0)
    assert all(module.training for module in runner.model.modules())


class Clock:
    """Time that passes when the test says so."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_seconds_are_those_of_training_without_the_probe_and_through_resumes(
    tiny_config, monkeypatch
):
    clock = Clock()
    monkeypatch.setattr(ProbeHook, 'clock', clock)
    tiny_config.custom_hooks.append(probe('KNNHook', interval=2, max_samples=100))
    runner = build_runner(tiny_config)
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, ProbeHook))
    written = {}
    monkeypatch.setattr(
        runner.visualizer, 'add_scalars', lambda curves, step: written.update({step: curves})
    )

    def accuracy(runner):
        clock.now += 1000  # a slow probe
        return 0.5

    monkeypatch.setattr(hook, 'accuracy', accuracy)
    hook.before_train(runner)
    for epoch, seconds in enumerate((3, 4, 5)):
        clock.now += seconds
        runner.train_loop._epoch = epoch
        hook.after_train_epoch(runner)
    curves = {'knn/acc': 0.5, 'knn/seconds': 7.0}
    assert written == {2: curves, 3: curves | {'knn/seconds': 12.0}}
    clock.now += 2
    checkpoint = {}
    hook.before_save_checkpoint(runner, checkpoint)
    assert checkpoint == dict(knn_seconds=14.0)

    later = build_runner(tiny_config)
    (hook,) = (hook for hook in later.hooks if isinstance(hook, ProbeHook))
    hook.after_load_checkpoint(later, checkpoint)
    hook.before_train(later)
    assert hook.seconds() == 0  # weights alone: a training of its own
    later._resume = True
    hook.after_load_checkpoint(later, checkpoint)
    hook.before_train(later)
    clock.now += 1
    assert hook.seconds() == 15


@pytest.mark.parametrize('kind', ['KNNHook', 'LinearProbeHook'])
def test_the_number_is_that_of_the_checkpoint(kind, tiny_config):
    tiny_config.custom_hooks.append(probe(kind))
    train(tiny_config)
    name = dict(KNNHook='knn', LinearProbeHook='linear_probe')[kind]
    ((step, accuracy),) = scalars(tiny_config)[f'{name}/acc']
    assert step == 3  # fewer epochs than the interval: the last one only

    init_default_scope('mmcoke')
    model = MODELS.build(tiny_config.model)
    model.load_state_dict(final_state(tiny_config)['state_dict'], strict=False)
    sets = [InMemoryImages('digits', split, pipeline=PLAIN) for split in ('train', 'test')]
    (x, _), (x_test, _) = (extract_features(model, dataset) for dataset in sets)
    y, y_test = (torch.from_numpy(dataset.labels) for dataset in sets)
    classify = dict(KNNHook=knn_classify, LinearProbeHook=linear_probe)[kind]
    assert accuracy == pytest.approx((classify(x, y, x_test) == y_test).double().mean().item())
    (log,) = Path(tiny_config.work_dir).glob('*/*.log')
    assert f'{name}: acc {accuracy:.4f} (1257 training and 540 test images' in log.read_text()


def test_the_number_is_written_for_tensorboard(tiny_config):
    events = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    tiny_config.visualizer.vis_backends = [dict(type='TensorboardVisBackend')]
    tiny_config.custom_hooks.append(probe('KNNHook', interval=2, max_samples=100))
    train(tiny_config)
    Visualizer.get_current_instance().close()
    (folder,) = Path(tiny_config.work_dir).glob('*/vis_data')
    board = events.EventAccumulator(str(folder))
    board.Reload()
    assert [event.step for event in board.Scalars('knn/acc')] == [2, 3]


def test_samples_are_capped_and_always_the_same(tiny_config):
    tiny_config.custom_hooks += [probe('KNNHook', max_samples=100)] * 2
    runner = build_runner(tiny_config)
    hooks = [hook for hook in runner.hooks if type(hook).__name__ == 'KNNHook']
    for seed, hook in enumerate(hooks):
        torch.manual_seed(seed)
        np.random.seed(seed)
        hook.before_train(runner)
    (train_set, y), (test_set, y_test) = hooks[0]._sets
    assert len(train_set) == len(test_set) == len(y) == len(y_test) == 100
    assert train_set.indices == hooks[1]._sets[0][0].indices != list(range(100))
    assert [train_set[i]['data_samples'].gt_label.item() for i in range(100)] == y.tolist()


@pytest.mark.parametrize(
    ('hook', 'message'),
    [
        (probe('KNNHook', interval=0), 'interval'),
        (probe('KNNHook', max_samples=0), 'max_samples'),
        (probe('KNNHook', max_samples=15), r'k must be in 1 \.\.\. 15'),
        (probe('LinearProbeHook') | dict(train=digits('train', indices=1)), 'two classes'),
        (
            probe('KNNHook') | dict(train=NAMED, test=NAMED | dict(metainfo=dict(classes='b'))),
            'not the same',
        ),
    ],
)
def test_settings_that_cannot_work_are_refused_before_training(hook, message, tiny_config):
    tiny_config.custom_hooks.append(hook)
    with pytest.raises(ValueError, match=message):
        train(tiny_config)
    assert not list(Path(tiny_config.work_dir).glob('*.pth'))


def test_images_without_labels_are_refused_before_training(tiny_config, image_folder):
    images = dict(type='CustomDataset', data_root=str(image_folder), with_label=False, pipeline=[])
    tiny_config.custom_hooks.append(dict(type='KNNHook', train=images, test=images))
    with pytest.raises(ValueError, match='without a label'):
        train(tiny_config)


def test_a_loop_without_epochs_is_refused(tiny_config):
    tiny_config.custom_hooks = [probe('KNNHook')]
    tiny_config.train_cfg = dict(by_epoch=False, max_iters=3)
    tiny_config.param_scheduler = []
    with pytest.raises(ValueError, match='by_epoch=True'):
        Runner.from_cfg(tiny_config).train()


@pytest.mark.slow
def test_two_processes_measure_what_one_does_in_their_checkpoint(tmp_path):
    """BatchNorm averages differ between processes on CPU; those of the checkpoint count."""
    cfg = tiny('coke', tmp_path / 'work_dir')
    cfg.merge_from_dict({'train_dataloader.batch_size': 32, 'train_cfg.max_epochs': 2})
    cfg.custom_imports = dict(imports=['spy_hook'], allow_failed_imports=False)
    probes = [probe('KNNHook', interval=1), probe('LinearProbeHook', max_samples=301)]
    cfg.custom_hooks += [probes[0] | dict(type='SpiedKNNHook'), probes[1]]
    cfg.dump(tmp_path / 'tiny.py')
    result = dist_train(tmp_path / 'tiny.py', 2)
    assert result.returncode == 0, result.stderr[-3000:]

    curves = scalars(cfg)
    cfg.custom_hooks[-2:] = probes
    runner = build_runner(cfg)
    runner.model.load_state_dict(final_state(cfg)['state_dict'], strict=False)
    for hook in runner.hooks:
        if isinstance(hook, ProbeHook):
            hook.before_train(runner)
            assert hook.accuracy(runner) == curves[f'{hook.name}/acc'][-1][1], hook.name
