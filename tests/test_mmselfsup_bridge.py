"""mmcoke in configs of mmselfsup: those of docs/mmselfsup.md, with little to train."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from PIL import Image

from mmcoke.files import read_checkpoint

pytest.importorskip('mmselfsup')

NUM_IMAGES = 20
TINY = {
    'model.backbone.stem_channels': 8,
    'model.backbone.base_channels': 8,
    'model.neck.in_channels': 64,
    'model.neck.hid_channels': 16,
    'model.neck.out_channels': 8,
    'model.head.in_channels': 8,
    'model.head.hid_channels': 16,
    'model.clustering.num_clusters': [2, 3],
    'model.clustering.dual_lr': 0.5,
    'train_dataloader.batch_size': 5,
    'train_dataloader.num_workers': 1,
    'train_cfg.max_epochs': 3,
    'param_scheduler.0.warmup': 1,
    'default_hooks.checkpoint.interval': 1,
}
TRAIN = (
    'import sys; from mmengine.config import Config; from mmengine.runner import Runner;'
    'Runner.from_cfg(Config.fromfile(sys.argv[1])).train()'
)


@pytest.fixture(autouse=True)
def scope():
    """Leaves no default scope behind for other tests."""
    with DefaultScope.overwrite_default_scope('mmselfsup'):
        yield


@pytest.fixture
def example(tmp_path):
    """Reads a config of the documentation and makes what it trains tiny; images of 32 pixels."""
    random = np.random.default_rng(0)
    names = [f'{i}.jpg' for i in range(NUM_IMAGES)]
    for name in names:
        pixels = random.integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / 'list.txt').write_text('\n'.join(names))
    text = (ROOT / 'docs/mmselfsup.md').read_text(encoding='utf-8')
    for name, config in re.findall(r'```python\n# (\S+\.py)\n(.+?)```', text, re.DOTALL):
        (tmp_path / name).write_text(config.replace('size=224', 'size=32'))

    def read(name, **options):
        cfg = Config.fromfile(tmp_path / name)
        data_root = {'train_dataloader.dataset.data_root': str(tmp_path)}
        cfg.merge_from_dict(TINY | data_root | {'work_dir': str(tmp_path / 'work_dir')} | options)
        return cfg

    return read


@pytest.mark.slow
def test_mmengine_alone_trains_the_example(example, tmp_path):
    """In a process that has not imported mmcoke, as mmselfsup's own tools have not."""
    cfg = example('coke_photos.py')
    path = tmp_path / 'tiny.py'
    cfg.dump(path)
    command = [sys.executable, '-c', TRAIN, str(path)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    state = read_checkpoint(f'{cfg.work_dir}/epoch_3.pth')['state_dict']
    for number, num_clusters in enumerate([2, 3]):
        label = state[f'labelers.{number}.labels.label']
        assert len(label) == NUM_IMAGES
        assert label.min() >= 0 and label.max() < num_clusters


@pytest.mark.parametrize('name', ['coke_photos.py', 'coke_photos_2view.py'])
def test_the_examples_train_networks_of_mmselfsup_and_resume(example, name):
    runner = Runner.from_cfg(example(name, experiment_name='first'))
    before = {n: p.detach().clone() for n, p in runner.model.named_parameters()}
    runner.model.init_weights = lambda: None  # keep the weights noted above
    model = runner.train()
    for part in (model.backbone, model.neck, model.data_preprocessor):
        assert type(part).__module__.startswith('mmselfsup.')
    assert all(not torch.equal(p, before[n]) for n, p in model.named_parameters() if p.ndim > 1)

    work_dir = Path(runner.work_dir)
    (work_dir / 'epoch_1.pth').unlink()
    options = {'train_cfg.max_epochs': 4, 'resume': True, 'experiment_name': 'second'}
    Runner.from_cfg(example(name, **options)).train()
    saved = {path.name for path in work_dir.glob('epoch_*.pth')}
    assert saved == {'epoch_2.pth', 'epoch_3.pth', 'epoch_4.pth'}


def test_a_pipeline_that_does_not_pack_sample_idx_is_refused(example):
    cfg = example('coke_photos.py')
    cfg.train_dataloader.dataset.pipeline[-1].algorithm_keys = []
    with pytest.raises(ValueError, match='no sample_idx'):
        Runner.from_cfg(cfg).train()
