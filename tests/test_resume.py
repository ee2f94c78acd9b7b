"""A run that was stopped and resumed ends as the run that was not: bit for bit, on CPU."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope

from mmcoke.datasets import ConcatDataset, CustomDataset, TruncatedSampler
from mmcoke.datasets.seeded_pipeline import SeededPipeline, kept_random_state, seed_pipelines
from mmcoke.engine.checkpoint import WholeFilesBackend, checkpoint_to_resume
from mmcoke.engine.launch import build_runner, train

CASES = {
    'CoKe, stage 1': ('coke', {}),
    'CoKe, across the boundary': ('coke', {'model.clustering.average_from_epoch': 3}),
    'CoKe, stage 2': ('coke', {'model.clustering.average_from_epoch': 1}),
    'CoKe, its options': (
        'coke',
        {
            'model.type': 'MomentumCoKe',
            'model.head.type': 'NestedCoKeHead',
            'model.clustering.dim': [4, 8],
            'model.clustering.repulsion': 0.1,
        },
    ),
    'DeepCluster': ('deepcluster', {}),
    'DeepCluster, every other epoch': (
        'deepcluster',
        {
            'custom_hooks.0.interval': 2,
            'train_dataloader.sampler': dict(_delete_=True, type='TruncatedSampler'),
            'model.clustering.reweight_pow': 0.5,
        },
    ),
    'DeepCluster-v2': ('deepclusterv2', {}),
    'ODC': ('odc', {}),
    'SeCu': ('secu', {}),
    'SeCu, entropy': ('secu', {'model.clustering.constraint': 'entropy'}),
    'SeLa': ('sela', {}),
    'SwAV, queue from epoch 1': ('swav', {}),
    'SwAV, queue and prototypes from epoch 4': (
        'swav',
        {'model.clustering.queue_from_epoch': 4, 'model.head.freeze_epochs': 4},
    ),
    'SelfLabel': ('selflabel', {}),
}


@pytest.fixture
def tiny_config(tmp_path):
    """CoKe's digits recipe, made tiny, on few images."""
    return tiny('coke', tmp_path / 'work_dir', num_images=320)


def load(work_dir, epoch):
    return torch.load(Path(work_dir) / f'epoch_{epoch}.pth', weights_only=True)


def assert_same(one, other, path=''):
    """Equal structure and equal bits."""
    assert type(one) is type(other), path
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_same(one[key], other[key], f'{path}.{key}')
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), path
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f'{path}[{i}]')
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), path
    else:
        assert one == other, path


@pytest.mark.parametrize(('method', 'change'), CASES.values(), ids=CASES)
def test_resume_continues_bit_for_bit(tmp_path, method, change):
    """2N epochs at once = N epochs, resume, N epochs: with another number of workers, too."""
    tiny_config = tiny(method, tmp_path / 'whole', num_images=320)
    tiny_config.merge_from_dict(
        change | {'train_cfg.max_epochs': 6, 'default_hooks.checkpoint.max_keep_ckpts': -1}
    )
    tiny_config.train_dataloader.dataset.pipeline = [
        dict(type='torchvision/ToPILImage'),
        dict(type='torchvision/RandomRotation', degrees=20),
        dict(type='PILToNumpy'),
        dict(type='RandomFlip', prob=0.5),
        *tiny_config.pipeline,
    ]
    untrained = tiny_config.copy()
    train(tiny_config)
    whole = load(tiny_config.work_dir, 6)
    for num_workers in (0, 2):
        resumed = untrained.copy()
        resumed.work_dir = str(tmp_path / f'resumed_{num_workers}')
        Path(resumed.work_dir).mkdir()
        shutil.copy(Path(tiny_config.work_dir) / 'epoch_3.pth', resumed.work_dir)
        resumed.merge_from_dict({'resume': True, 'train_dataloader.num_workers': num_workers})
        train(resumed)
        continued = load(resumed.work_dir, 6)
        for part in ('state_dict', 'optimizer', 'param_schedulers'):
            assert_same(whole[part], continued[part], part)


def test_a_resumed_run_takes_the_seed_of_its_checkpoint(tiny_config):
    tiny_config.randomness.seed = 5
    train(tiny_config)
    tiny_config.merge_from_dict({'randomness.seed': 6, 'resume': True, 'train_cfg.max_epochs': 4})
    runner = build_runner(tiny_config)
    runner.train()
    loader = runner.train_dataloader
    assert runner.seed == loader.sampler.seed == loader.dataset.pipeline.seed == 5


def draws(record):
    """A pipeline that returns a random number of each kind."""
    return torch.rand(1).item(), np.random.rand(), random.random()


def test_randomness_follows_from_seed_epoch_and_sample_alone():
    def draw(seed, epoch, sample, first=0):
        pipeline = SeededPipeline(draws, seed, torch.tensor(epoch), first)
        torch.rand(sample + 3)  # what was drawn before does not matter
        return pipeline(dict(sample_idx=sample))

    assert draw(0, 1, 2) == draw(0, 1, 2) == draw(0, 1, 0, first=2)
    others = {draw(0, 1, 2), draw(1, 1, 2), draw(0, 2, 2), draw(0, 1, 3), draw(0, 2, 1)}
    assert len(others) == 5
    assert len(set(draw(0, 1, 2))) == 3


def test_the_training_process_keeps_its_own_random_state():
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    expected = draws(None)
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    with kept_random_state():
        draws(None)
    SeededPipeline(draws, 0, torch.tensor(0), 0)(dict(sample_idx=0))
    assert draws(None) == expected


def test_all_parts_of_a_concatenation_are_seeded_by_their_place(image_folder):
    init_default_scope('mmcoke')
    folder = dict(type='CustomDataset', data_root=str(image_folder), with_label=False)
    both = ConcatDataset([folder, folder])
    epoch = torch.zeros((), dtype=torch.int64)
    for part in both.datasets:
        part.pipeline = Compose([draws])
    seed_pipelines(both, 0, epoch)
    numbers = [part[i] for part in both.datasets for i in range(9)]
    assert len(set(numbers)) == 18
    single = CustomDataset(data_root=str(image_folder), with_label=False)
    single.pipeline = Compose([draws])
    seed_pipelines(single, 0, epoch)
    assert [single[i] for i in range(9)] == numbers[:9]


@pytest.mark.parametrize(('num_samples', 'world_size'), [(1023, 2), (1024, 2), (10, 3), (7, 8)])
def test_no_sample_comes_twice_in_an_epoch_and_processes_get_equally_many(
    num_samples, world_size, monkeypatch
):
    seen = []
    for rank in range(world_size):
        monkeypatch.setattr(
            'mmengine.dataset.sampler.get_dist_info', lambda r=rank: (r, world_size)
        )
        sampler = TruncatedSampler(range(num_samples), seed=0)
        part = list(sampler)
        assert len(part) == len(sampler) == num_samples // world_size
        seen += part
    assert len(set(seen)) == len(seen)


def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    backend, path = WholeFilesBackend(), tmp_path / 'a' / 'epoch_1.pth'
    backend.put(b'old', path)
    monkeypatch.setattr('os.fsync', lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        backend.put(b'new', path)
    assert path.read_bytes() == b'old'
    assert list(path.parent.iterdir()) == [path]


def test_the_recipes_write_checkpoints_whole(tiny_config):
    runner = build_runner(tiny_config)
    runner.train()
    hook = next(hook for hook in runner.hooks if type(hook).__name__ == 'CheckpointHook')
    assert isinstance(hook.file_backend, WholeFilesBackend)
    assert (Path(tiny_config.work_dir) / 'epoch_3.pth').is_file()


def test_a_truncated_checkpoint_is_named_and_the_one_before_offered(tiny_config):
    tiny_config.default_hooks.checkpoint.max_keep_ckpts = -1
    train(tiny_config)
    last = Path(tiny_config.work_dir) / 'epoch_3.pth'
    last.write_bytes(last.read_bytes()[:-500])
    tiny_config.resume = True
    with pytest.raises(ValueError, match=r'epoch_3\.pth cannot be read .*--resume .*epoch_2\.pth'):
        train(tiny_config)


def test_a_damaged_checkpoint_is_not_offered_as_the_one_before(tmp_path, monkeypatch):
    """mmengine notes the absolute path, while the work dir is mostly relative."""
    monkeypatch.chdir(tmp_path)
    for epoch in (1, 2):
        Path('work').mkdir(exist_ok=True)
        torch.save(dict(a=epoch), f'work/epoch_{epoch}.pth')
    Path('work/last_checkpoint').write_text(str(tmp_path / 'work/epoch_2.pth'))
    Path('work/epoch_2.pth').write_bytes(b'broken')
    with pytest.raises(ValueError, match=r'--resume work/epoch_1\.pth'):
        checkpoint_to_resume('work')


def test_resume_survives_a_broken_note_of_the_last_checkpoint(tmp_path):
    assert checkpoint_to_resume(tmp_path) is None
    torch.save(dict(a=1), tmp_path / 'epoch_1.pth')
    (tmp_path / 'last_checkpoint').write_text('')
    assert checkpoint_to_resume(tmp_path) == str(tmp_path / 'epoch_1.pth')
    with pytest.raises(ValueError, match=r'No such file .*epoch_9\.pth.*epoch_1\.pth'):
        checkpoint_to_resume(tmp_path, str(tmp_path / 'epoch_9.pth'))


@pytest.mark.parametrize(
    ('change', 'numbers'),
    [
        ({'model.clustering.num_clusters': [8, 13]}, r'\[8, 12\].*\[8, 13\]'),
        (
            {'train_dataloader.dataset.split': 'test', 'train_dataloader.dataset.indices': 300},
            r'of its 320 images \d+ are among the 300',
        ),
        ({'model.clustering.average_from_epoch': 2}, r'without averaged.*with averaged'),
    ],
)
def test_a_checkpoint_of_other_sizes_is_refused_with_both(tiny_config, change, numbers):
    train(tiny_config)
    tiny_config.merge_from_dict(change | {'resume': True})
    with pytest.raises(ValueError, match=numbers):
        train(tiny_config)


@pytest.mark.parametrize('resume', [True, False])
def test_a_checkpoint_of_another_network_is_refused(tiny_config, resume):
    train(tiny_config)
    last = str(Path(tiny_config.work_dir) / 'epoch_3.pth')
    tiny_config.merge_from_dict({'model.backbone.channels': [8, 8, 8, 16, 20]})
    tiny_config.merge_from_dict({'resume': resume, 'load_from': last})
    if not resume:
        tiny_config.work_dir += '_new'
    with pytest.raises(ValueError, match=r'another network.*backbone\.layers.*\(16, 16, 3, 3\)'):
        train(tiny_config)


def test_a_checkpoint_without_clustering_state_is_refused_for_resume_only(tiny_config, tmp_path):
    train(tiny_config)
    state = load(tiny_config.work_dir, 3)
    weights = {k: v for k, v in state['state_dict'].items() if not k.startswith('labelers.')}
    torch.save(dict(state, state_dict=weights), tmp_path / 'weights.pth')
    tiny_config.merge_from_dict(
        dict(load_from=str(tmp_path / 'weights.pth'), work_dir=str(tmp_path / 'second'))
    )
    train(tiny_config)
    tiny_config.merge_from_dict(dict(resume=True, work_dir=str(tmp_path / 'third')))
    with pytest.raises(ValueError, match='no clustering state'):
        train(tiny_config)
