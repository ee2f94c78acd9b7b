"""Settings that follow from a folder of images and a machine."""

import pytest
from conftest import CONFIGS
from mmengine.config import Config

from mmcoke.engine.folder_settings import (
    MIN_IMAGES,
    Images,
    Machine,
    apply_settings,
    choose_settings,
)

LAPTOP, GPU = Machine(False, 8), Machine(True, 16)


def values(images, machine, **chosen):
    return {name: one.value for name, one in choose_settings(images, machine, chosen).items()}


@pytest.mark.parametrize(
    ('images', 'machine', 'expected'),
    [
        # K by hand: n/100, n/50, n/25, at least 8, 12, 16; dual_lr: 0.3 K N / (0.4 n).
        (
            Images(100, 300),
            LAPTOP,
            dict(num_clusters=[8, 12, 16], batch_size=16, dual_lr=0.8, epochs=200, image_size=64),
        ),
        (
            Images(700, 300),
            LAPTOP,
            dict(num_clusters=[8, 14, 28], batch_size=64, dual_lr=1.92, epochs=46, width=16),
        ),
        (
            Images(800, 300),
            Machine(False, 1),
            dict(num_clusters=[8, 16, 32], epochs=40, num_workers=0, precision='float32'),
        ),
        (
            Images(60_000, 32),
            LAPTOP,
            dict(num_clusters=[600, 1200, 2400], image_size=32, stem='small', epochs=20),
        ),
        (
            Images(60_000, 32),
            GPU,
            dict(batch_size=256, dual_lr=7.68, image_size=32, stem='small', width=64, epochs=333),
        ),
        (
            Images(1_281_167, 375),
            GPU,
            dict(num_clusters=[3000, 4000, 5000], image_size=224, stem='usual', epochs=100),
        ),
        (Images(500, 375), GPU, dict(batch_size=64, num_workers=16, precision='bfloat16')),
        (Images(500, 10), LAPTOP, dict(image_size=16, stem='small', num_workers=2)),
    ],
)
def test_settings_follow_from_images_and_machine(images, machine, expected):
    found = values(images, machine)
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize('number', [100, 333, 1000, 60_000, 2_000_000])
@pytest.mark.parametrize('machine', [LAPTOP, GPU])
def test_they_fit_together(number, machine):
    found = values(Images(number, 300), machine)
    assert number // found['batch_size'] >= 4  # batches of an epoch; the last one is dropped
    assert max(found['num_clusters']) <= number / 6
    assert len(set(found['num_clusters'])) == 3
    # One image does not move a dual by more than similarities differ.
    assert 0 < found['dual_lr'] / found['batch_size'] <= 0.05
    assert 1 <= found['warmup'] < found['epochs']


def test_what_is_chosen_stays_and_the_rest_follows_from_it():
    found = choose_settings(
        Images(800, 300), LAPTOP, dict(num_clusters=[20], batch_size=32, epochs=10, image_size=None)
    )
    assert found['num_clusters'] == ([20], 'as given')
    assert found['dual_lr'].value == pytest.approx(0.3 * 20 * 32 / (0.4 * 800))
    assert found['warmup'].value == 2
    assert found['image_size'].value == 64


def test_too_few_images_are_told_with_what_works_instead():
    with pytest.raises(ValueError, match=r'50 images are too few .* mmcoke sort FOLDER --model'):
        choose_settings(Images(50, 300), LAPTOP)
    assert choose_settings(Images(MIN_IMAGES, 300), LAPTOP)


@pytest.mark.parametrize(
    ('chosen', 'named'),
    [
        (dict(batch_size=801), '--batch-size'),
        (dict(num_clusters=[4, 801]), '--num-clusters'),
        (dict(epochs=0), '--epochs'),
        (dict(image_size=8), '--image-size'),
        (dict(num_workers=-1), '--num-workers'),
    ],
)
def test_impossible_numbers_are_named_as_they_were_typed(chosen, named):
    with pytest.raises(ValueError, match=named):
        choose_settings(Images(800, 300), LAPTOP, chosen)


def test_the_recipe_takes_all_of_them():
    cfg = Config.fromfile(CONFIGS / 'coke/coke_r18_1xb64-2view_folder.py')
    found = values(Images(60_000, 32), GPU)
    apply_settings(cfg, found)
    assert (cfg.train_cfg.max_epochs, cfg.param_scheduler[0].warmup) == (334, 10)
    assert cfg.model.head.instance_epochs == round(300 * 3.33)
    assert cfg.model.clustering.num_clusters == [600, 1200, 2400]
    assert cfg.model.clustering.dual_lr_base_batch_size == 256
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(0.05 * 256 / 64)
    assert [view.size for view in cfg.train_dataloader.dataset.pipeline[0].views] == [32, 32]
    sizes = [x['size'] for x in cfg.custom_hooks[1].pipeline if 'size' in x]
    assert sizes == [37, 32]
    backbone = cfg.model.backbone
    assert (backbone.type, backbone.base_channels) == ('ResNet_CIFAR', 64)
    assert cfg.gpu.bfloat16


def test_another_recipe_keeps_its_network():
    cfg = Config.fromfile(CONFIGS / 'deepcluster/deepcluster_r50_8xb64_in1k.py')
    before = cfg.model.backbone.to_dict(), cfg.train_dataloader.dataset.pipeline
    found = values(Images(800, 300), LAPTOP)
    ours = ('image_size', 'stem', 'width', 'warmup')
    apply_settings(cfg, {name: value for name, value in found.items() if name not in ours})
    assert (cfg.model.backbone.to_dict(), cfg.train_dataloader.dataset.pipeline) == before
    assert cfg.model.clustering.num_clusters == 16  # the middle one
    assert (cfg.train_dataloader.batch_size, cfg.train_cfg.max_epochs) == (64, 40)
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(0.1 * 64 / 512)
