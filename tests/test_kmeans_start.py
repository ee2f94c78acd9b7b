"""CoKe's first labels from k-means of all images."""

import shutil
from pathlib import Path

import pytest
import torch
from conftest import fork_ranks, tiny
from mmengine.config import Config
from torch.nn.functional import normalize

from mmcoke.clustering import CoKeLabeler
from mmcoke.engine.hooks import KMeansStartHook
from mmcoke.engine.launch import train
from mmcoke.files import read_checkpoint


def start_config(work_dir, **options) -> Config:
    cfg = tiny('coke', work_dir, num_images=192)
    cfg.custom_hooks.append(dict(type='KMeansStartHook', pipeline=cfg.pipeline))
    cfg.merge_from_dict({'default_hooks.checkpoint.max_keep_ckpts': -1} | options)
    cfg.default_hooks.checkpoint.interval = 1
    return cfg


def state(cfg, epoch):
    return read_checkpoint(f'{cfg.work_dir}/epoch_{epoch}.pth')['state_dict']


def test_two_groups_by_hand():
    """Around (1, 0) and (0, 1): centers are the normalized means of what is normalized first."""
    labeler = CoKeLabeler(4, 2, 2, min_ratio=0.5, dual_lr=1.0)
    found = labeler.cluster(torch.tensor([[2.0, 0.0], [3.0, 4.0], [0.0, 5.0], [7.0, 0.0]]))
    label = found.label.tolist()
    assert label[0] == label[3] != label[1] == label[2]
    expected = normalize(torch.tensor([0.6, 0.8 + 1.0]), dim=0)
    torch.testing.assert_close(found.centers[label[0]], torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(found.centers[label[1]], expected)


@pytest.mark.parametrize('num_clusters', [3, [3, 5]])
def test_the_next_targets_are_the_labels_of_the_clustering(num_clusters):
    heads = CoKeLabeler(6, num_clusters, 4, min_ratio=0.5, dual_lr=1.0)
    x = normalize(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    heads.set_epoch(0)
    heads.step(x, torch.arange(6))
    heads.end_epoch()
    head = heads if num_clusters == 3 else heads[0]
    memory = [buffer.data_ptr() for buffer in heads.buffers()]
    label, centers = torch.tensor([2, 1, 0, 2, 1, 0]), normalize(torch.ones(3, 4).tril(), dim=1)
    head.start_from(label, centers)
    assert not head.kmeans.dual.any()
    assert torch.equal(head.kmeans.centers, centers)
    assert torch.equal(head.kmeans.running, centers)
    # A CUDA graph goes on reading and writing the same memory.
    assert memory == [buffer.data_ptr() for buffer in heads.buffers()]
    heads.set_epoch(1)
    target = heads.step(x, torch.arange(6))
    assert torch.equal(target if num_clusters == 3 else target[0], label)
    assert torch.equal(head.newest.label.long(), (x @ centers.T).argmax(1))


def test_labels_of_other_clusters_are_refused():
    with pytest.raises(ValueError, match=r'label runs from 0 to 3, but labels of 3 clusters'):
        CoKeLabeler(4, 3, 2).start_from(torch.arange(4), torch.eye(3)[:, :2])


def test_the_checkpoint_of_the_first_epoch_has_labels_and_centers_that_agree(tmp_path):
    """Each center is the normalized mean of features, so every label is of its nearest center."""
    cfg = start_config(tmp_path / 'run', **{'train_cfg.max_epochs': 1})
    model = train(cfg)
    saved = state(cfg, 1)
    plain = tiny('coke', tmp_path / 'plain', num_images=192)
    plain.merge_from_dict({'train_cfg.max_epochs': 1})
    plain.default_hooks.checkpoint.interval = 1
    train(plain)
    before = state(plain, 1)
    for number, labeler in enumerate(model.labelers):
        name = f'labelers.{number}'
        assert torch.equal(saved[f'{name}.kmeans.centers'], saved[f'{name}.kmeans.running'])
        assert not torch.equal(saved[f'{name}.kmeans.centers'], before[f'{name}.kmeans.centers'])
        assert (saved[f'{name}.labels.label'] >= 0).all()
        assert (labeler.sizes() > 0).all()
    weights = [key for key in saved if not key.startswith('labelers.')]
    assert all(torch.equal(saved[key], before[key]) for key in weights)  # and BN's statistics


def test_resume_continues_bit_for_bit_and_does_not_cluster_again(tmp_path):
    whole = start_config(tmp_path / 'whole', **{'train_cfg.max_epochs': 3})
    train(whole)
    resumed = start_config(tmp_path / 'resumed', **{'train_cfg.max_epochs': 3, 'resume': True})
    Path(resumed.work_dir).mkdir()
    shutil.copy(Path(whole.work_dir) / 'epoch_1.pth', resumed.work_dir)
    train(resumed)
    one, other = state(whole, 3), state(resumed, 3)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_other_methods_are_refused(tmp_path):
    cfg = tiny('secu', tmp_path, num_images=192)
    cfg.custom_hooks.append(dict(type='KMeansStartHook', pipeline=cfg.pipeline))
    with pytest.raises(ValueError, match='KMeansStartHook is for CoKe, not for SeCu'):
        train(cfg)


@pytest.mark.parametrize(
    'wrong', [dict(epoch=-1), dict(batch_size=0), dict(num_workers=-1)], ids=str
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        KMeansStartHook([], **wrong)


def test_two_processes_start_from_the_same_labels_and_centers(tmp_path):
    """Of all images, though each process has the features of its half, and one clusters."""
    cfg = start_config(tmp_path / 'work_dir', **{'train_cfg.max_epochs': 1})
    cfg.custom_hooks.append(dict(type='SpyHook'))
    cfg.custom_imports = dict(imports=['spy_hook'], allow_failed_imports=False)
    cfg.train_dataloader.batch_size = 32
    cfg.dump(tmp_path / 'start.py')
    codes, said = fork_ranks(2, 'train.py', tmp_path / 'start.py', folder=tmp_path)
    assert codes == [0, 0], said[-3000:]
    one, other = (torch.load(Path(cfg.work_dir) / f'rank{rank}_epoch0.pth') for rank in range(2))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert (one['0.labels.label'] >= 0).all() and not one['0.kmeans.dual'].any()
