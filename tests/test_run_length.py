"""Recipes in fewer epochs: what hangs on epochs shrinks with them."""

import pytest
from conftest import CONFIGS
from mmengine.config import Config

from mmcoke.engine.run_length import set_epochs


def recipe(**settings):
    return Config(dict(model=dict(type='CoKe'), train_cfg=dict(max_epochs=401)) | settings)


def test_epochs_at_rate_0_come_on_top_and_the_warmup_shrinks():
    cfg = Config.fromfile(CONFIGS / 'coke/coke_r18_1xb128-2view_cifar10.py')
    set_epochs(cfg, 320)
    assert cfg.train_cfg.max_epochs == 321
    (schedule,) = cfg.param_scheduler
    assert (schedule.zero, schedule.warmup) == (1, 8)  # 10 of 400 epochs
    set_epochs(cfg, 320)  # it is so already
    assert cfg.train_cfg.max_epochs == 321 and cfg.param_scheduler[0].warmup == 8


@pytest.mark.parametrize(
    'recipe, epochs, warmup',
    [
        ('coke/coke_r18_1xb128-2view_cifar10.py', 100, 5),  # 10 of 400 epochs would be 2.5
        ('coke/coke_r18_1xb128-2view_cifar10.py', 10, 5),
        ('coke/coke_r18_1xb128-2view_cifar10.py', 7, 3),
        ('coke/coke_r18_1xb128-2view_cifar10.py', 1, 1),
        ('self_label/self_label_tiny_1xb64_digits.py', 10, 2),
        ('odc/odc_r18_1xb128_cifar10.py', 10, 0),
    ],
)
def test_of_a_warmup_five_epochs_stay_or_half_of_a_short_training(recipe, epochs, warmup):
    cfg = Config.fromfile(CONFIGS / recipe)
    set_epochs(cfg, epochs)
    assert cfg.param_scheduler[0].warmup == warmup


def test_the_recipe_in_as_many_epochs_as_it_has_is_the_recipe():
    path = CONFIGS / 'coke/coke_r18_1xb128_cifar10.py'
    cfg = Config.fromfile(path)
    set_epochs(cfg, 400)
    assert cfg.to_dict() == Config.fromfile(path).to_dict()


def test_settings_of_epochs_shrink_wherever_they_are_and_other_numbers_stay():
    cfg = recipe(
        model=dict(
            head=dict(freeze_epochs=2, num_layers=2),
            clustering=dict(queue_from_epoch=50, queue_length=3840, average_from_epoch=None),
        ),
        custom_hooks=[dict(type='A', warm_epochs=[100, 200]), dict(type='B', by_epoch=True)],
        param_scheduler=[
            dict(type='LinearLR', begin=0, end=10, by_epoch=True),
            dict(type='MultiStepLR', milestones=[200, 300]),
            dict(type='LinearLR', begin=0, end=500, by_epoch=False),
        ],
        train_cfg=dict(max_epochs=400),
    )
    set_epochs(cfg, 40)
    assert cfg.train_cfg.max_epochs == 40
    assert cfg.model.head == dict(freeze_epochs=1, num_layers=2)
    assert cfg.model.clustering.queue_from_epoch == 5
    assert cfg.model.clustering.queue_length == 3840
    assert cfg.model.clustering.average_from_epoch is None
    assert cfg.custom_hooks[0].warm_epochs == [10, 20] and cfg.custom_hooks[1].by_epoch is True
    first, second, third = cfg.param_scheduler
    assert (first.begin, first.end, third.end) == (0, 1, 500)
    assert second.milestones == [20, 30]


def test_lengths_that_a_recipe_leaves_to_the_schedule_count():
    cfg = recipe(param_scheduler=dict(type='mmcoke.WarmupCosineLR', convert_to_iter_based=True))
    set_epochs(cfg, 200)
    assert cfg.train_cfg.max_epochs == 201 and cfg.param_scheduler.warmup == 5


def test_a_training_by_iterations_is_refused():
    with pytest.raises(ValueError, match='it has no max_epochs'):
        set_epochs(recipe(train_cfg=dict(max_iters=100)), 10)
