"""Two processes through the launcher that users type."""

import os
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from children import start_processes
from conftest import ROOT, fork_ranks, tiny
from mmengine.dist import broadcast, get_rank
from mmengine.registry import init_default_scope
from mmengine.structures import BaseDataElement
from test_resume import assert_same

from mmcoke.clustering import FeatureMemory
from mmcoke.engine import CPUDistributedDataParallel, ReplicaCheckHook
from mmcoke.engine.hooks import SeLaHook
from mmcoke.engine.hooks.deepcluster_v2_hook import from_main
from mmcoke.engine.hooks.odc_hook import load_shards
from mmcoke.engine.hooks.refit_hook import cluster_on_main
from mmcoke.engine.hooks.replica_check_hook import checksum, state_checksum
from mmcoke.engine.launch import train
from mmcoke.engine.main_process import run_on_main
from mmcoke.features.extraction import gather_rows, own_features
from mmcoke.files import read_checkpoint
from mmcoke.models import SelfLabel
from mmcoke.registry import MODELS


def environment():
    return dict(os.environ, PYTHONPATH=f'{ROOT}:{ROOT / "tests"}')


def dist_train(config, num_processes, *arguments):
    return subprocess.run(
        ['bash', 'tools/dist_train.sh', str(config), str(num_processes), *arguments],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
    )


METHODS = ['coke', 'deepcluster', 'deepclusterv2', 'odc', 'secu', 'sela', 'selflabel', 'swav']
SEVERAL = ['coke', 'deepclusterv2', 'secu']
"""Methods with several clusterings, whose labelers are told epochs as a whole."""


@pytest.mark.parametrize('method', METHODS)
def test_labelers_are_bit_identical_across_ranks(method, tmp_path):
    cfg = tiny(method, tmp_path / 'work_dir', num_images=320)
    cfg.custom_hooks.append(dict(type='SpyHook'))
    cfg.merge_from_dict(
        {
            'custom_imports': dict(imports=['spy_hook'], allow_failed_imports=False),
            'train_dataloader.batch_size': 32,
        }
    )
    if method in SEVERAL:
        cfg.model.clustering.num_clusters = [8, 150]  # labels of 8 and of 16 bits
    if method == 'swav':  # one of them with the page, which the main process writes alone
        cfg.default_hooks.report = dict(type='ReportHook')
    cfg.dump(tmp_path / 'tiny.py')
    codes, said = fork_ranks(2, 'train.py', tmp_path / 'tiny.py', folder=tmp_path)
    assert codes == [0, 0], said[-3000:]
    work_dir = Path(cfg.work_dir)
    assert (work_dir / 'report.html').is_file() == (method == 'swav')
    for epoch in range(3):
        one, other = (torch.load(work_dir / f'rank{rank}_epoch{epoch}.pth') for rank in range(2))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one), epoch
        assert (one['0.labels.label'] >= 0).sum() >= 5 * 64  # both halves of each batch count


def test_labelers_are_made_after_the_runner_has_broadcast_the_state(tiny_config, monkeypatch):
    """NCCL, unlike gloo, has no 16-bit integers: label tables must not be in that broadcast."""
    sent = []
    monkeypatch.setattr('mmengine.runner.runner.broadcast', lambda x: sent.append(x.dtype))
    train(tiny_config)
    assert sent
    assert set(sent) <= {torch.float32, torch.float64, torch.int64}  # the time is in float64


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
    assert 'torch.distributed.launch' not in result.stderr  # the deprecated launcher
    for rank in range(2):
        state = torch.load(work_dir / f'rank{rank}_start.pth')
        assert len(state) > 8
        for name, value in state.items():
            assert torch.equal(value, saved[f'labelers.{name}']), name


def test_a_spread_memory_trains_and_resumes_as_one_in_one_piece(tmp_path):
    """Each of two processes holds and saves half of it; the labels are the same."""
    states = {}
    for sharded in (False, True):
        cfg = tiny('odc', tmp_path / str(sharded))
        cfg.custom_hooks.append(dict(type='SpyHook'))
        cfg.merge_from_dict(
            {
                'custom_imports': dict(imports=['spy_hook'], allow_failed_imports=False),
                'model.clustering.shard_memory': sharded,
                'train_dataloader.batch_size': 32,
                'default_hooks.checkpoint.max_keep_ckpts': 1,
            }
        )
        for epochs in (2, 4) if sharded else (4,):
            cfg.train_cfg.max_epochs = epochs
            cfg.dump(tmp_path / 'tiny.py')
            config = tmp_path / 'tiny.py'
            codes, said = fork_ranks(2, 'train.py', config, '--resume', folder=tmp_path)
            assert codes == [0, 0], said[-3000:]
        states[sharded] = [torch.load(tmp_path / f'{sharded}/rank{r}_epoch3.pth') for r in (0, 1)]
    for whole, spread in zip(states[False], states[True], strict=True):
        assert set(whole) - set(spread) == {'0.memory.x'}
        assert all(torch.equal(value, whole[name]) for name, value in spread.items())
    shards = sorted((tmp_path / 'True/odc_memory').iterdir())
    # When those of epoch 4 were written, the checkpoint of epoch 3 was still there.
    assert [path.name for path in shards] == [
        f'epoch_{epoch}_from_{first}.pth' for epoch in (3, 4) for first in (0, 629)
    ]
    shards = shards[2:]
    rows = [torch.load(path)['x'] for path in shards]
    assert torch.equal(torch.cat(rows), states[False][0]['0.memory.x'])

    # As one process or three would load them, and when a part is missing.
    memory = FeatureMemory(1257, 8)
    load_shards(memory, shards[0].parent, 'epoch_4')
    assert torch.equal(memory.x, torch.cat(rows))
    memory.first, memory.x = 419, torch.zeros(419, 8)
    load_shards(memory, shards[0].parent, 'epoch_4')
    assert torch.equal(memory.x, torch.cat(rows)[419:838])
    shards[1].unlink()
    with pytest.raises(ValueError, match='209 of 419 rows are missing'):
        load_shards(memory, shards[0].parent, 'epoch_4')


@pytest.mark.slow
def test_two_processes_stop_together_and_go_on_as_if_they_had_not(tmp_path):
    """TERM, to the script, in the middle of the second epoch; then the command that it tells."""
    ends = []
    for name, hooks in (
        ('whole', []),
        ('parts', [dict(type='SignalHook', iteration=15, signum=15, to_script=True)]),
    ):
        cfg = tiny('coke', tmp_path / name)
        cfg.custom_hooks += hooks
        cfg.merge_from_dict(
            {
                'custom_imports': dict(imports=['spy_hook'], allow_failed_imports=False),
                'train_dataloader.num_workers': 1,
                'train_cfg.max_epochs': 2,
            }
        )
        cfg.dump(tmp_path / f'{name} 1.py')
        config = tmp_path / f'{name} 1.py'
        if not hooks:
            codes, said = fork_ranks(2, 'train.py', config, folder=tmp_path)
            assert codes == [0, 0], said[-3000:]
        else:
            result = dist_train(config, 2)
            assert result.returncode == 128 + 15
            (saved,) = Path(cfg.work_dir).glob('interrupted_epoch_2_iter_*.pth')
            assert f'{saved} is saved' in result.stderr
            command = re.search(r'go on with:\n(.*)', result.stderr)[1]
            assert f"bash tools/dist_train.sh '{tmp_path}/parts 1.py' 2 --resume" in command
            result = subprocess.run(
                command, shell=True, cwd=ROOT, env=environment(), capture_output=True, text=True
            )
            assert result.returncode == 0, result.stderr[-3000:]
        ends.append(read_checkpoint(Path(cfg.work_dir) / 'epoch_2.pth'))
    for part in ('state_dict', 'optimizer', 'param_schedulers'):
        assert_same(*(end[part] for end in ends), part)


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


def network(method='coke', seed=0):
    """A small network whose BN uses fixed statistics, so that a batch can be split."""
    init_default_scope('mmcoke')
    torch.manual_seed(seed)
    cfg = tiny(method.partition('_')[0])
    if method == 'coke_stage2':
        cfg.model.clustering.average_from_epoch = 0  # soft targets in epoch 1
    elif method == 'coke_options':
        cfg.model.type, cfg.model.head.type = 'MomentumCoKe', 'NestedCoKeHead'
        cfg.model.clustering.update(dim=[4, 8], repulsion=0.1)
    elif method == 'secu_entropy':
        cfg.model.clustering.update(constraint='entropy', alpha=50.0)
    elif method == 'deepclusterv2':  # few, because many of these images have equal features
        cfg.model.clustering.num_clusters = [3, 4]
    elif method == 'sela':
        cfg.model.clustering.num_clusters = [4, 6]
    elif method == 'swav':
        cfg.model.clustering.update(num_clusters=6, queue_length=20)
    elif method in ('deepcluster', 'odc'):
        cfg.model.clustering.num_clusters = 6
        cfg.model.clustering.update(dict(min_size=4) if method == 'odc' else dict(reweight_pow=0.5))
    model = MODELS.build(cfg.model)
    model.init_labelers(48)
    return model.eval()


def refit(model, images):
    """What the hooks of DeepCluster and ODC do before an epoch."""
    labelers, several = model.labelers, hasattr(model.head, 'classifiers')
    dataset = [dict(inputs=image, data_samples=BaseDataElement()) for image in images]
    x_nD = own_features(model, dataset, batch_size=5)
    x_AD = gather_rows(x_nD, len(images), keep=get_rank() == 0 or labelers[0].keeps_features)
    for number, labeler in enumerate(labelers):
        options = SeLaHook.cluster_options(None, model, number) if several else {}
        clusters = cluster_on_main(labeler, x_AD, len(images), iter, **options)
        labeler.refit(x_nD if x_AD is None else x_AD, clusters)
    if isinstance(model, SelfLabel):
        broadcast(labelers[0].centers)
        model.head.start_from(labelers[0].centers)
    elif not several:  # else the labels are the classifiers' own
        model.head.reset(int(labelers[0].num_fits))


def upkeep(model, method):
    """What the hook of ODC does after an iteration."""
    if method == 'odc':
        model.labelers[0].update_centroids()
        model.labelers[0].split_small_clusters()


def two_epochs(rank, world_size, folder, method):
    """Two epochs of global batches of 16, each process on its part; notes state and gradients."""
    if world_size > 1:
        store = f'file://{folder}/store'
        dist.init_process_group('gloo', store, rank=rank, world_size=world_size)
    model = network(method)
    labelers, model.labelers = model.labelers, torch.nn.ModuleList()
    if world_size == 1:
        forward = model
    else:
        forward = CPUDistributedDataParallel(model, broadcast_buffers=False)  # as launch.py
    model.labelers = labelers  # after wrapping, as the hooks do: gloo broadcasts no 16-bit integers
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(48, 1, 16, 16, generator=generator)
    if method == 'sela':  # of noise, the scores would be nearly equal
        images = 5 * images[:, :, :2, :2].repeat_interleave(8, -1).repeat_interleave(8, -2)
    seen = []
    for epoch in range(2):
        if method in ('deepcluster', 'sela') or (method in ('odc', 'selflabel') and epoch == 0):
            refit(model, images)
        labelers = model.labelers if method in ('odc', 'selflabel', 'swav') else [model.labelers]
        for labeler in labelers if method not in ('deepcluster', 'sela') else []:
            labeler.set_epoch(epoch)
        for batch in torch.randperm(48, generator=generator).split(16):
            own = batch.chunk(world_size)[rank]
            samples = [BaseDataElement(metainfo=dict(sample_idx=i)) for i in own.tolist()]
            model.zero_grad()
            views = images[own]
            if method.startswith('secu') or method in ('selflabel', 'swav'):
                views = [views, views + 0.1 * views.flip(-1)]
            forward(views, samples, mode='loss')['loss'].backward()
            upkeep(model, method)
            learned = {n: p for n, p in model.named_parameters() if p.requires_grad}
            grads = {name: p.grad.clone() for name, p in learned.items()}
            state = {name: v.clone() for name, v in model.labelers.state_dict().items()}
            seen.append((state, grads))
            with torch.no_grad():
                for p in learned.values():
                    p -= 0.1 * p.grad
        if method == 'deepclusterv2':
            found = run_on_main(model.labelers.cluster)
            model.labelers.refit(from_main(model.labelers, found))
        without = ('deepcluster', 'deepclusterv2', 'sela', 'selflabel', 'swav')
        for labeler in labelers if method not in without else []:
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
        value = list(model.labelers.state_dict().values())[-1].view(-1)
        value[0] = torch.nextafter(value[0], value[0] + 1) if value.dtype.is_floating_point else 99
    with pytest.raises(RuntimeError, match=r'process \[1\] differs .* epoch 2'):
        hook.after_train_epoch(runner)


@pytest.mark.parametrize('method', [*METHODS, 'coke_stage2', 'secu_entropy', 'coke_options'])
def test_two_processes_compute_what_one_does_and_the_guard_sees_one_bit(method, tmp_path):
    """Labels, sizes and counts equal; centers, duals and gradients up to the order of sums."""
    two_epochs(0, 1, str(tmp_path), method)
    start_processes(two_epochs, (2, str(tmp_path), method), 2)
    single = torch.load(tmp_path / 'world1_rank0.pth')
    for rank in range(2):
        steps = torch.load(tmp_path / f'world2_rank{rank}.pth')
        assert len(steps) == len(single) == 6
        for (state, grads), (expected_state, expected_grads) in zip(steps, single, strict=True):
            for name, value in expected_state.items():
                if name.endswith('.total'):  # sums in units of 2^-32
                    value, state[name] = value * 2.0**-32, state[name] * 2.0**-32
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
