"""What several tests use: a tiny config, folders of images, the shared data."""

import os
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
DIGITS = ROOT / 'configs/selfsup/coke/coke_tiny_1xb64_digits.py'


@pytest.fixture
def tiny_config(tmp_path):
    """The quickstart's config with a smaller network and 3 epochs, writing to ``tmp_path``."""
    cfg = Config.fromfile(DIGITS)
    cfg.merge_from_dict(TINY | {'work_dir': str(tmp_path / 'work_dir')})
    return cfg


TINY = {
    'model.backbone.channels': [8, 8, 8, 16, 16],
    'model.neck.hid_channels': 16,
    'model.neck.out_channels': 8,
    'model.head.in_channels': 8,
    'model.head.hid_channels': 16,
    'model.clustering.num_clusters': [8, 12],
    'model.clustering.dual_lr': 0.5,
    'param_scheduler.0.warmup': 1,
    'train_cfg.max_epochs': 3,
    'default_hooks.checkpoint.interval': 1,
}


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


@pytest.fixture
def shared_data():
    """The folder of real test images, or a skip that says why."""
    folder = Path(os.environ.get('MMCOKE_TEST_DATA', ROOT.parent / 'shared/data'))
    if not folder.is_dir():
        pytest.skip(f'no test images: {folder} is absent (MMCOKE_TEST_DATA names the folder)')
    return folder
