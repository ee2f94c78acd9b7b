"""What several tests use: a tiny config, folders of images, the shared data."""

import os
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

pytest_plugins = ['run_options']
ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / 'configs/selfsup'
DIGITS = dict(
    coke=CONFIGS / 'coke/coke_tiny_1xb64_digits.py',
    deepcluster=CONFIGS / 'deepcluster/deepcluster_tiny_1xb64_digits.py',
    odc=CONFIGS / 'odc/odc_tiny_1xb64_digits.py',
)
SMALL = {
    'model.backbone.channels': [8, 8, 8, 16, 16],
    'train_cfg.max_epochs': 3,
    'default_hooks.checkpoint.interval': 1,
}
TINY = dict(
    coke=SMALL
    | {
        'model.neck.hid_channels': 16,
        'model.neck.out_channels': 8,
        'model.head.in_channels': 8,
        'model.head.hid_channels': 16,
        'model.clustering.num_clusters': [8, 12],
        'model.clustering.dual_lr': 0.5,
        'param_scheduler.0.warmup': 1,
    },
    deepcluster=SMALL
    | {
        'model.clustering.num_clusters': 12,
        'model.clustering.pca_dim': 8,
        'custom_hooks.0.interval': 1,
        'param_scheduler': [],
    },
    odc=SMALL
    | {
        'model.neck.hid_channels': 16,
        'model.neck.out_channels': 8,
        'model.clustering.num_clusters': 12,
        'model.clustering.min_size': 40,
        'param_scheduler': [],
    },
)
"""Smaller networks and 3 epochs, by method."""


def tiny(method, work_dir=None):
    """The digits recipe of a method, made tiny."""
    cfg = Config.fromfile(DIGITS[method])
    cfg.merge_from_dict(TINY[method] | {'work_dir': str(work_dir)})
    # By default the time in seconds, and mmengine lets runs of one name share a visualizer.
    cfg.experiment_name = str(work_dir)
    return cfg


@pytest.fixture
def tiny_config(tmp_path):
    """CoKe's digits recipe, made tiny, writing to ``tmp_path``."""
    return tiny('coke', tmp_path / 'work_dir')


@pytest.fixture
def image_folder(tmp_path):
    """Nine unlabelled JPEG images in nested folders."""
    random = np.random.default_rng(0)
    for i in range(9):
        folder = tmp_path / 'images' / f'part{i % 2}'
        folder.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 255, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f'{i}.jpg')
    return tmp_path / 'images'


@pytest.fixture(scope='session')
def shared_data():
    """The folder of real test images, or a skip that says why."""
    folder = Path(os.environ.get('MMCOKE_TEST_DATA', ROOT.parent / 'shared/data'))
    if not folder.is_dir():
        pytest.skip(f'no test images: {folder} is absent (MMCOKE_TEST_DATA names the folder)')
    return folder
