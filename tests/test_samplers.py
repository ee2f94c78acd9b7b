"""Samplers: which samples an epoch has, in which order, on which process."""

import tracemalloc

import pytest
import torch
from mmengine.dataset import DefaultSampler

from mmcoke.clustering import PseudoLabels
from mmcoke.datasets import ClusterUniformSampler, ReplacementSampler, TruncatedSampler, samplers
from mmcoke.datasets.samplers import shuffled


def labels(sizes):
    """A table with clusters of these sizes, in mixed order."""
    table = PseudoLabels(sum(sizes), len(sizes))
    label = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    table.assign_all(label[torch.randperm(len(label), generator=torch.Generator().manual_seed(0))])
    return table


def uniform(sizes, seed=0, epoch=0):
    sampler = ClusterUniformSampler(range(sum(sizes)), seed=seed)
    sampler.labels = labels(sizes)
    sampler.set_epoch(epoch)
    return sampler


def test_every_cluster_comes_equally_often():
    sampler = uniform([5, 90, 300, 5])
    drawn = torch.tensor(list(sampler))
    assert len(drawn) == len(sampler) == 400
    assert sampler.labels.read(drawn).bincount().tolist() == [100] * 4


def test_of_a_large_cluster_no_sample_comes_twice_and_of_a_small_one_all_may_come():
    sampler = uniform([10, 190, 200])
    drawn = torch.tensor(list(sampler))
    counts = drawn.bincount(minlength=400)
    label = sampler.labels.read(torch.arange(400))
    assert counts[label > 0].max() == 1
    assert counts[label == 0].sum() in (133, 134)
    assert (counts[label == 0] > 5).all()


def test_empty_clusters_are_left_out():
    sampler = uniform([0, 30, 0, 70])
    drawn = torch.tensor(list(sampler))
    assert sampler.labels.read(drawn).bincount(minlength=4).tolist() == [0, 50, 0, 50]


def test_order_and_draws_follow_from_seed_and_epoch():
    sizes = [5, 90, 305]
    first = list(uniform(sizes))
    assert list(uniform(sizes)) == first
    assert list(uniform(sizes, seed=1)) != first
    assert list(uniform(sizes, epoch=1)) != first
    table = labels(sizes)
    head = table.read(torch.tensor(first[:100])).bincount(minlength=3)
    assert head.min() > 15, 'clusters are mixed, not one after the other'


def test_the_newest_labels_are_drawn_by():
    sampler = uniform([50, 50])
    list(sampler)
    sampler.labels.assign_all(torch.tensor([0] * 10 + [1] * 90))
    drawn = torch.tensor(list(sampler))
    assert (drawn < 10).sum() == 50


def test_without_labels_it_says_which_hook_is_missing():
    sampler = ClusterUniformSampler(range(10), seed=0)
    with pytest.raises(ValueError, match='DeepClusterHook'):
        list(sampler)
    sampler.labels = PseudoLabels(10, 2)
    with pytest.raises(ValueError, match='no labels'):
        list(sampler)


@pytest.mark.parametrize('kind', ['uniform', 'replacement'])
def test_processes_share_one_draw(kind, monkeypatch):
    parts = []
    for rank in range(3):
        monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda r=rank: (r, 3))
        sampler = ClusterUniformSampler if kind == 'uniform' else ReplacementSampler
        sampler = sampler(range(100), seed=0)
        sampler.labels = labels([30, 70])
        parts.append(list(sampler))
    assert [len(part) for part in parts] == [33] * 3 == [len(sampler)] * 3
    monkeypatch.undo()
    alone = type(sampler)(range(100), seed=0)
    alone.labels = labels([30, 70])
    assert [part[i] for i in range(33) for part in parts] == list(alone)[:99]


def test_replacement_leaves_some_out_and_repeats_others():
    counts = torch.tensor(list(ReplacementSampler(range(10_000), seed=0))).bincount()
    assert counts.sum() == 10_000
    share_left_out = (counts == 0).float().mean().item()
    assert share_left_out == pytest.approx(0.368, abs=0.02)  # 1 / e


@pytest.mark.parametrize('shuffle', [True, False])
@pytest.mark.parametrize('size', [1, 3, 100, 40_000])
def test_the_order_is_that_of_mmengine(size, shuffle, monkeypatch):
    whole = DefaultSampler(range(size), shuffle=shuffle, seed=5)
    whole.set_epoch(2)
    whole = list(whole)
    for rank in range(3):
        monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda r=rank: (r, 3))
        sampler = TruncatedSampler(range(size), shuffle=shuffle, seed=5)
        sampler.set_epoch(2)
        assert list(sampler) == whole[: size // 3 * 3][rank::3]
        assert len(sampler) == size // 3


def test_an_epoch_is_drawn_when_it_begins_and_takes_four_bytes_per_sample(monkeypatch):
    sampler = TruncatedSampler(range(300_000), seed=5)
    drawn = []
    monkeypatch.setattr(samplers, 'shuffled', lambda *a: drawn.append(shuffled(*a)) or drawn[-1])
    tracemalloc.start()
    indices = iter(sampler)
    sampler.set_epoch(1)
    first = next(indices)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert drawn[0].dtype == torch.int32
    assert first == drawn[0][0]
    assert peak < 2e6, 'no list of 300,000 Python integers, which takes 12 MB'


def test_draws_follow_the_seed_as_they_did():
    """Values of the first release: a resumed run goes on with the same samples."""
    assert list(uniform([5, 90, 305], seed=1))[:8] == [270, 209, 277, 12, 77, 14, 310, 211]
    assert list(ReplacementSampler(range(400), seed=1))[:8] == [
        245,
        139,
        124,
        168,
        63,
        313,
        91,
        341,
    ]
