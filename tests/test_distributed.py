"""Two processes through the launcher that users type."""

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from conftest import DIGITS, ROOT, TINY
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import BaseDataElement

from mmcoke.engine import CPUDistributedDataParallel, ReplicaCheckHook
from mmcoke.engine.hooks.replica_check_hook import checksum, state_checksum
from mmcoke.engine.launch import train
from mmcoke.registry import MODELS


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
            'model.clustering.num_clusters': [8, 150],  # labels of 8 and of 16 bits
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


def test_labelers_are_made_after_the_runner_has_broadcast_the_state(tiny_config, monkeypatch):
    """NCCL, unlike gloo, has no 16-bit integers: label tables must not be in that broadcast."""
    sent = []
    monkeypatch.setattr('mmengine.runner.runner.broadcast', lambda x: sent.append(x.dtype))
    train(tiny_config)
    assert sent
    assert set(sent) <= {torch.float32, torch.float64, torch.int64}  # kornia has float64


def test_a_run_of_one_process_resumes_on_two_with_the_same_clustering_state(tiny_config, tmp_path):
    train(tiny_config)
    work_dir = Path(tiny_config.work_dir)
    saved = torch.load(work_dir / 'epoch_3.pth', weights_only=True)['state_dict']
    tiny_config.merge_from_dict(
        {
            'custom_imports': dict(imports=['spy_hook'], allow_failed_imports=False),
            'custom_hooks': [dict(type='CoKeHook'), dict(type='SpyHook')],
            'train_dataloader.batch_size': 32,
            'train_cfg.max_epochs': 4,
        }
    )
    tiny_config.dump(tmp_path / 'tiny.py')
    result = dist_train(tmp_path / 'tiny.py', 2, '--resume')
    assert result.returncode == 0, result.stderr[-3000:]
    for rank in range(2):
        state = torch.load(work_dir / f'rank{rank}_start.pth')
        assert len(state) > 8
        for name, value in state.items():
            assert torch.equal(value, saved[f'labelers.{name}']), name


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


def network(seed=0):
    """A small CoKe whose BN uses fixed statistics, so that a batch can be split."""
    init_default_scope('mmcoke')
    torch.manual_seed(seed)
    cfg = Config.fromfile(DIGITS)
    cfg.merge_from_dict(TINY)
    model = MODELS.build(cfg.model)
    model.init_labelers(48)
    return model.eval()


def two_epochs(rank, world_size, folder):
    """Two epochs of global batches of 16, each process on its part; notes state and gradients."""
    if world_size > 1:
        store = f'file://{folder}/store'
        dist.init_process_group('gloo', store, rank=rank, world_size=world_size)
    model = network()
    forward = model if world_size == 1 else CPUDistributedDataParallel(model)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(48, 1, 16, 16, generator=generator)
    seen = []
    for epoch in range(2):
        for labeler in model.labelers:
            labeler.set_epoch(epoch)
        for batch in torch.randperm(48, generator=generator).split(16):
            own = batch.chunk(world_size)[rank]
            samples = [BaseDataElement(metainfo=dict(sample_idx=i)) for i in own.tolist()]
            model.zero_grad()
            forward(images[own], samples, mode='loss')['loss'].backward()
            grads = {name: p.grad.clone() for name, p in model.named_parameters()}
            state = {name: v.clone() for name, v in model.labelers.state_dict().items()}
            seen.append((state, grads))
        for labeler in model.labelers:
            labeler.end_epoch()
    torch.save(seen, f'{folder}/world{world_size}_rank{rank}.pth')
    if world_size > 1:
        check_guard(rank, model)
        dist.destroy_process_group()


def check_guard(rank, model):
    """The guard is silent on equal states and stops both processes when one bit differs."""
    hook, runner = ReplicaCheckHook(), SimpleNamespace(model=model, epoch=1)
    hook.after_train_epoch(runner)
    if rank == 1:
        dual = model.labelers[0].kmeans.dual
        dual[0] = torch.nextafter(dual[0], torch.tensor(9.0))
    with pytest.raises(RuntimeError, match=r'process \[1\] differs .* epoch 2'):
        hook.after_train_epoch(runner)


def test_two_processes_compute_what_one_does_and_the_guard_sees_one_bit(tmp_path):
    """Labels, sizes and counts equal; centers, duals and gradients up to the order of sums."""
    two_epochs(0, 1, str(tmp_path))
    torch.multiprocessing.spawn(two_epochs, (2, str(tmp_path)), nprocs=2)
    single = torch.load(tmp_path / 'world1_rank0.pth')
    for rank in range(2):
        steps = torch.load(tmp_path / f'world2_rank{rank}.pth')
        assert len(steps) == len(single) == 6
        for (state, grads), (expected_state, expected_grads) in zip(steps, single, strict=True):
            for name, value in expected_state.items():
                if value.is_floating_point():
                    torch.testing.assert_close(state[name], value, atol=1e-5, rtol=0)
                else:
                    assert torch.equal(state[name], value), name
            for name, grad in expected_grads.items():
                torch.testing.assert_close(grads[name], grad, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize('buffer', ['0.kmeans.centers', '1.kmeans.dual', '0.labels.label'])
def test_the_checksum_sees_every_bit_and_every_place(buffer):
    labelers = network().labelers
    before = state_checksum(labelers)
    value = labelers.state_dict()[buffer].view(-1)
    assert state_checksum(labelers) == before
    value[3] += torch.tensor(1e-6 if value.is_floating_point() else 1).to(value.dtype)
    assert state_checksum(labelers) != before
    value = torch.tensor([1.0, 2.0, 3.0])
    assert checksum(value) != checksum(value.flip(0))
    assert checksum(value, chunk_size=2) != checksum(value.flip(0), chunk_size=2)
