"""dual_lr follows the images of a dual step, the learning rate those of an optimizer step."""

import re
from pathlib import Path

import pytest
import torch
from conftest import CONFIGS, tiny
from mmengine.config import Config
from mmengine.registry import init_default_scope
from test_distributed import dist_train

from mmcoke.engine.batch_size import BatchSize
from mmcoke.engine.launch import build_runner
from mmcoke.registry import MODELS


def one_epoch(work_dir, **options):
    """A run's log, its steps of the duals and its base learning rate."""
    cfg = tiny('coke', work_dir)
    cfg.merge_from_dict({'train_cfg.max_epochs': 1, 'auto_scale_lr.enable': True} | options)
    runner = build_runner(cfg)
    runner.train()
    dual_lrs = [labeler.kmeans.dual_lr for labeler in runner.model.labelers]
    log = next(Path(work_dir).glob('*/*.log')).read_text()
    return log, dual_lrs, runner.optim_wrapper.param_groups[0]['initial_lr']


@pytest.mark.parametrize(
    ('batch_size', 'accumulation', 'dual_lr', 'lr'),
    [(64, 1, 0.5, 0.2), (128, 1, 1.0, 0.4), (32, 1, 0.25, 0.1), (32, 2, 0.25, 0.2)],
)
def test_each_rate_follows_the_images_that_its_step_sees(
    tmp_path, batch_size, accumulation, dual_lr, lr
):
    options = {
        'train_dataloader.batch_size': batch_size,
        'optim_wrapper.accumulative_counts': accumulation,
    }
    log, dual_lrs, initial_lr = one_epoch(tmp_path, **options)
    assert dual_lrs == [dual_lr] * 2
    assert initial_lr == pytest.approx(lr)
    assert (
        f'CoKe: dual_lr {dual_lr:g} (in the config for 64 images) for the {batch_size} images of a '
        f'dual step: {batch_size} per process, 1 process(es), gradient accumulation {accumulation}.'
    ) in log
    assert f'which has {batch_size * accumulation} ({batch_size} per process' in log


def test_a_dual_lr_without_a_stated_batch_is_used_as_it_is(tmp_path):
    options = {'model.clustering.dual_lr_base_batch_size': None, 'train_dataloader.batch_size': 32}
    log, dual_lrs, _ = one_epoch(tmp_path, **options)
    assert dual_lrs == [0.5] * 2
    assert 'CoKe: dual_lr 0.5 (as in the config) for the 32 images of a dual step' in log


def test_a_resumed_run_scales_once_and_to_its_own_batch(tmp_path):
    one_epoch(tmp_path, **{'train_dataloader.batch_size': 32})
    for batch_size, dual_lr in ((32, 0.25), (128, 1.0)):
        cfg = tiny('coke', tmp_path)
        cfg.merge_from_dict(
            {'train_dataloader.batch_size': batch_size, 'train_cfg.max_epochs': 1, 'resume': True}
        )
        runner = build_runner(cfg)
        runner.train()
        runner.call_hook('before_train')
        assert [labeler.kmeans.dual_lr for labeler in runner.model.labelers] == [dual_lr] * 2


@pytest.mark.slow
def test_two_processes_count_together(tmp_path):
    cfg = tiny('coke', tmp_path / 'work_dir')
    cfg.merge_from_dict(
        {
            'train_cfg.max_epochs': 1,
            'train_dataloader.batch_size': 16,
            'optim_wrapper.accumulative_counts': 2,
            'auto_scale_lr.enable': True,
        }
    )
    cfg.dump(tmp_path / 'tiny.py')
    result = dist_train(tmp_path / 'tiny.py', 2)
    assert result.returncode == 0, result.stderr[-3000:]
    log = next((tmp_path / 'work_dir').glob('*/*.log')).read_text()
    details = '16 per process, 2 process(es), gradient accumulation 2'
    assert f'0.25 (in the config for 64 images) for the 32 images of a dual step: {details}' in log
    assert 'Learning rate times 1: it belongs to 64 images per optimizer step, which has 64 ' in log


ETA = {
    'coke_r50_8xb64_in1k.py': 10.0,
    'coke_r50_8xb64-2view_in1k.py': 10.0,
    'coke_r50_8xb64-mcrop_in1k.py': 10.0,
    'coke_vit-small-p16_8xb64_in1k.py': 10.0,
    'coke_r18_1xb256_folder.py': 4.0,
    'coke_r18_1xb64-2view_folder.py': 1.92,
    'coke_r18_1xb128_cifar10.py': 0.1,
    'coke_r18_1xb128-2view_cifar10.py': 0.1,
    'coke_r18_1xb128-2view_cifar100.py': 0.1,
    'coke_r18_1xb128-2view_stl10.py': 0.1,
    'coke_tiny_1xb64_digits.py': 2.0,
}


@pytest.mark.parametrize('recipe', [path.name for path in sorted(CONFIGS.glob('coke/*.py'))])
def test_every_recipe_has_its_dual_lr_at_the_batch_in_its_name(recipe):
    """The published 20 belongs to 1024 images, as does the learning rate of 1.6; 0.1 to 128."""
    init_default_scope('mmcoke')
    cfg = Config.fromfile(CONFIGS / 'coke' / recipe)
    processes, per_process = map(int, re.search(r'_(\d+)xb(\d+)', recipe).groups())
    assert cfg.train_dataloader.batch_size == per_process
    cfg.model.backbone = dict(type='PlainConvNet', in_channels=3, channels=[4, 4, 4, 4, 4])
    cfg.model.neck.with_avg_pool = True
    model = MODELS.build(cfg.model)
    model.init_labelers(max(model.num_clusters))
    images = BatchSize(per_process, processes, accumulation=1).iteration
    expected = ETA[recipe] if 'digits' not in recipe else ETA['coke_tiny_1xb64_digits.py']
    assert model.scale_dual_lr(images) == expected
    assert cfg.auto_scale_lr.base_batch_size == images
    # Of one image, whatever the batch.
    assert model.scale_dual_lr(2 * images) == 2 * expected


def test_an_image_moves_a_dual_by_the_same_amount_whatever_the_batch(tiny_config):
    init_default_scope('mmcoke')
    model = MODELS.build(tiny_config.model)
    moves = []
    for batch_size in (16, 64):
        model.init_labelers(64)
        model.scale_dual_lr(batch_size)
        kmeans = model.labelers[0].kmeans
        kmeans.dual.fill_(1.0)
        kmeans.update(torch.eye(8).repeat(batch_size // 8, 1), torch.arange(batch_size) % 2)
        moves.append((1 - kmeans.dual[:2]) / (batch_size / 2 - 0.4 * batch_size / 8))
    torch.testing.assert_close(*moves)
    torch.testing.assert_close(moves[0], torch.full((2,), 0.5 / 64))


def test_auto_scale_lr_without_a_base_says_what_to_set(tiny_config):
    tiny_config.auto_scale_lr = dict(enable=True)
    with pytest.raises(ValueError, match=r'set auto_scale_lr\.base_batch_size in the config'):
        build_runner(tiny_config).train()
