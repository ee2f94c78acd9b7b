"""Two processes through the launcher that users type."""

import os
import subprocess
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent


def dist_train(config, num_processes, *arguments):
    environment = dict(os.environ, PYTHONPATH=f'{ROOT / "tests"}')
    return subprocess.run(
        ['bash', 'tools/dist_train.sh', str(config), str(num_processes), *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )


def test_labelers_are_bit_identical_across_ranks(tiny_config, tmp_path):
    tiny_config.merge_from_dict(
        {
            'custom_imports': dict(imports=['spy_hook'], allow_failed_imports=False),
            'custom_hooks': [dict(type='CoKeHook'), dict(type='SpyHook')],
            'train_dataloader.batch_size': 32,
        }
    )
    tiny_config.dump(tmp_path / 'tiny.py')
    result = dist_train(tmp_path / 'tiny.py', 2)
    assert result.returncode == 0, result.stderr[-3000:]
    assert 'torch.distributed.launch' not in result.stderr  # the deprecated launcher
    work_dir = Path(tiny_config.work_dir)
    for epoch in range(3):
        one, other = (torch.load(work_dir / f'rank{rank}_epoch{epoch}.pth') for rank in range(2))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one), epoch
        assert (one['0.labels.label'] >= 0).sum() >= 19 * 64  # both halves of each batch count


def test_a_failing_process_says_why(tiny_config, tmp_path):
    tiny_config.model.clustering.num_clusters = [2000]
    tiny_config.dump(tmp_path / 'tiny.py')
    result = dist_train(tmp_path / 'tiny.py', 2)
    assert result.returncode != 0
    assert 'num_clusters=2000 is more than the 1257 samples' in result.stderr


def test_wrong_arguments_print_the_usage():
    result = subprocess.run(
        ['bash', 'tools/dist_train.sh', 'only_a_config.py'],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode != 0
    assert 'dist_train.sh CONFIG GPUS' in result.stdout + result.stderr
