"""DeepCluster and ODC through mmengine's runner, in one process."""

import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import tiny
from mmengine.config import ConfigDict
from mmengine.dataset import Compose, default_collate
from mmengine.hooks import Hook

from mmcoke.datasets import ConcatDataset
from mmcoke.datasets.wrappers import with_pipeline
from mmcoke.engine.launch import build_runner, train
from mmcoke.features.extraction import gather_rows, own_features, view_of

METHODS = ['deepcluster', 'odc']
NUM_IMAGES, LENGTH = 320, 5  # images and iterations of an epoch
few = partial(tiny, num_images=NUM_IMAGES)


class Watch(Hook):
    """Calls functions at the places of a hook."""

    priority = 'LOWEST'

    def __init__(self, **functions):
        for name, function in functions.items():
            setattr(self, name, function)


def run(cfg, **functions):
    """Train with a :class:`Watch`; returns the runner."""
    runner = build_runner(cfg)
    runner.register_hook(Watch(**functions))
    runner.train()
    return runner


def curves(work_dir):
    """All logged records."""
    (path,) = Path(work_dir).glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('power', [0.0, 0.5, 1.0])
@pytest.mark.parametrize('num_clusters', [12, 25])
def test_the_first_loss_is_ln_k(method, power, num_clusters, tmp_path):
    """Within 5 %, re-weighted or not (in mmselfsup 1.0 it is ln K / K)."""
    cfg = few(method, tmp_path)
    cfg.model.clustering.update(reweight_pow=power, num_clusters=num_clusters)
    cfg.train_cfg.max_epochs = 1
    losses = []
    run(cfg, after_train_iter=lambda runner, outputs, **_: losses.append(outputs['loss']))
    assert losses[0].item() == pytest.approx(math.log(num_clusters), rel=0.05)
    assert len(losses) == LENGTH


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('num_workers', [0, 4])
def test_the_loss_sees_the_newest_labels(method, num_workers, tmp_path):
    """Also with workers that live through all epochs (they hold the first labels in mmselfsup)."""
    cfg = few(method, tmp_path)
    workers = dict(num_workers=num_workers, persistent_workers=num_workers > 0)
    cfg.train_dataloader.update(workers)
    runner = build_runner(cfg)
    model, seen, tables = runner.model, [], []
    read, loss = model.read_labels, model.head.loss

    def read_labels(x_nD, idx_n):
        newest = model.labelers[0].labels.read(idx_n)
        seen.append([newest])
        return read(x_nD, idx_n)

    def head_loss(x_nD, label_n, weight_K):
        seen[-1].append(label_n)
        return loss(x_nD, label_n, weight_K)

    model.read_labels, model.head.loss = read_labels, head_loss
    note = lambda r: tables.append(model.labelers[0].labels.label.clone())  # noqa: E731
    runner.register_hook(Watch(before_train_epoch=note))
    runner.train()
    assert len(seen) == 3 * LENGTH
    assert all(torch.equal(newest, label) for newest, label in seen)
    assert len(tables) == 3 and not torch.equal(tables[0], tables[1])


def test_the_classifier_starts_anew_after_each_clustering_and_forgets_its_momentum(tmp_path):
    cfg = few('deepcluster', tmp_path)
    cfg.optim_wrapper.paramwise_cfg.custom_keys.head.momentum = 0.9
    weights, states = [], []

    def note(runner):
        weight = runner.model.head.fc_cls.weight
        weights.append(weight.detach().clone())
        states.append(weight in runner.optim_wrapper.optimizer.state)

    runner = run(cfg, before_train_epoch=note, after_train_epoch=note)
    assert states == [False, False, False, False, False, True]  # after the last there is none
    starts = [weights[0], weights[2], weights[4]]
    assert all(start.std().item() == pytest.approx(0.01, rel=0.2) for start in starts)
    assert not torch.equal(starts[0], starts[1]) and not torch.equal(starts[1], starts[2])
    assert torch.equal(weights[1], weights[2])  # LOWEST: the clustering has been by then
    assert not torch.equal(weights[4], weights[5])
    backbone = next(runner.model.backbone.parameters())
    assert runner.optim_wrapper.optimizer.state[backbone]['momentum_buffer'].any()


@pytest.mark.parametrize(('interval', 'expected'), [(1, [0, 1, 2, 3]), (2, [0, 2]), (9, [0])])
def test_clusterings_come_every_interval_but_not_after_the_last_epoch(interval, expected, tmp_path):
    cfg = few('deepcluster', tmp_path)
    cfg.merge_from_dict({'custom_hooks.0.interval': interval, 'train_cfg.max_epochs': 4})
    cfg.custom_hooks[0].interval = interval
    runner = run(cfg)
    assert runner.model.labelers[0].num_fits == len(expected)
    records = [r for r in curves(tmp_path) if 'deepcluster/seconds' in r]
    assert [r['step'] for r in records] == expected
    for record in records:
        assert record['deepcluster/num_filled'] == 0
        sizes = record['deepcluster/min_size'], record['deepcluster/max_size']
        assert 1 <= sizes[0] <= NUM_IMAGES / 12 <= sizes[1]
    assert 'deepcluster/nmi' not in records[0]
    assert all(0.2 < r['deepcluster/nmi'] <= 1 for r in records[1:])


def test_a_finished_run_that_is_given_more_epochs_clusters_first(tmp_path):
    """And so ends as the run that had them from the start."""
    whole, short = (few('deepcluster', tmp_path / name) for name in ('whole', 'short'))
    whole.train_cfg.max_epochs = 5
    expected = train(whole).state_dict()
    train(short)
    short.merge_from_dict({'train_cfg.max_epochs': 5, 'resume': True})
    for name, value in train(short).state_dict().items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize('method', METHODS)
def test_a_resumed_run_does_not_cluster_again(method, tmp_path):
    cfg = few(method, tmp_path)
    train(cfg)
    cfg.resume = True
    cfg.merge_from_dict({'custom_hooks.0.batch_size': 64})
    if method == 'deepcluster':
        cfg.custom_hooks[0].interval = 3
    runner = run(cfg)
    assert runner.model.labelers[0].num_fits == (3 if method == 'deepcluster' else 1)


@pytest.mark.parametrize('method', METHODS)
def test_features_are_those_of_the_images_as_they_are_in_order(method, tmp_path):
    cfg = tiny(method, tmp_path)
    cfg.train_cfg.max_epochs = 1
    runner = build_runner(cfg)
    model, dataset = runner.model.train(), runner.train_dataloader.dataset
    x_AD = own_features(model, with_pipeline(dataset, Compose(cfg.pipeline)), batch_size=100)
    assert model.training
    model.eval()
    for i in (0, 99, 100, 1256):
        image = view_of(model, default_collate([dataset[i]]))
        with torch.no_grad():
            torch.testing.assert_close(x_AD[i], model.project(image)[0])


@pytest.mark.parametrize('method', METHODS)
def test_any_data_set_will_do(method, tmp_path, image_folder):
    """A concatenation of folders, with augmentation in the pipeline and workers."""
    cfg = tiny(method, tmp_path / 'work_dir')
    load = [dict(type='LoadImageFromFile', color_type='grayscale'), *cfg.pipeline]
    folder = dict(type='CustomDataset', data_root=str(image_folder), with_label=False)
    augmented = [load[0], dict(type='RandomFlip', prob=0.5), *load[1:]]
    cfg.train_dataloader.dataset = ConfigDict(
        type='ConcatDataset', datasets=[dict(folder, pipeline=augmented)] * 2
    )
    cfg.train_dataloader.batch_size = 6
    cfg.custom_hooks[0].update(pipeline=load, num_workers=2)
    cfg.model.clustering.num_clusters = 4
    cfg.model.clustering.update(dict(pca_dim=4) if method == 'deepcluster' else dict(min_size=2))
    runner = run(cfg)
    labeler = runner.model.labelers[0]
    assert labeler.sizes().sum() == 18
    if method == 'deepcluster':  # the same images twice, so the same labels twice
        assert torch.equal(labeler.labels.label[:9], labeler.labels.label[9:])


def test_odc_steps_with_unit_features_and_weighs_by_the_sizes_before(tmp_path):
    cfg = few('odc', tmp_path)
    cfg.train_cfg.max_epochs = 1
    runner = build_runner(cfg)
    seen = []

    def spy(runner):
        (labeler,) = runner.model.labelers
        step, loss = labeler.step, runner.model.head.loss

        def noted_step(x_ND, idx_N):
            seen.append([x_ND.norm(dim=1), labeler.cluster_weight()])
            return step(x_ND, idx_N)

        def noted_loss(x_nD, label_n, weight_K):
            seen[-1].append(weight_K)
            return loss(x_nD, label_n, weight_K)

        labeler.step, runner.model.head.loss = noted_step, noted_loss

    runner.register_hook(Watch(before_train_epoch=spy))
    runner.train()
    assert len(seen) == LENGTH
    for norms, before, used in seen:
        alive = norms > 0  # the neck ends with a ReLU, and is tiny
        assert alive.any()
        torch.testing.assert_close(norms[alive], torch.ones(int(alive.sum())))
        assert torch.equal(before, used)
    assert not torch.equal(seen[0][1], seen[-1][1])


def test_with_pipeline_reaches_all_parts_and_leaves_the_data_set_alone(image_folder):
    folder = dict(type='CustomDataset', data_root=str(image_folder), with_label=False)
    both = ConcatDataset([folder, folder])
    before = [part.pipeline for part in both.datasets]
    other = with_pipeline(both, lambda record: record['sample_idx'])
    assert [part[i] for part in other.datasets for i in (0, 8)] == [0, 8, 0, 8]
    assert [part.pipeline for part in both.datasets] == before
    with pytest.raises(ValueError, match='list has no pipeline'):
        with_pipeline([1, 2], before[0])


def test_two_views_are_refused(tmp_path):
    cfg = few('odc', tmp_path)
    cfg.model.data_preprocessor.views *= 2
    with pytest.raises(ValueError, match=r'ODC trains on one view .* the pipeline made 2'):
        train(cfg)


def test_impossible_settings_are_refused_with_the_remedy(tmp_path):
    for method, change, message in (
        ('deepcluster', {'model.clustering.num_clusters': 2000}, r'num_clusters=2000 .* 1257'),
        ('deepcluster', {'model.clustering.pca_dim': 17}, r'pca_dim must be in 1 \.\.\. 16'),
        ('deepcluster', {'custom_hooks.0.interval': 0}, 'interval must be at least 1'),
        ('odc', {'model.clustering.min_size': 200}, 'Lower num_clusters or min_size'),
        ('odc', {'custom_hooks.0.centroids_interval': 0}, 'centroids_interval must be at least 1'),
    ):
        cfg = tiny(method, tmp_path)
        cfg.merge_from_dict(change)
        with pytest.raises(ValueError, match=message):
            train(cfg)


def test_a_checkpoint_of_another_method_is_refused_with_both_names(tmp_path):
    odc, deepcluster = few('odc', tmp_path), few('deepcluster', tmp_path)
    train(odc)
    deepcluster.resume = True
    with pytest.raises(ValueError, match=r'clusterings of ODC, .* make DeepCluster, '):
        train(deepcluster)


def test_odc_logs_sizes_and_changes(tmp_path):
    cfg = few('odc', tmp_path)
    runner = run(cfg)
    records = [r for r in curves(tmp_path) if 'odc/changed' in r]
    assert [r['step'] for r in records] == [1, 2, 3]
    assert sum(r['odc/num_small'] for r in records) > 0
    assert all(0 < r['odc/changed'] < 1 for r in records)
    labeler = runner.model.labelers[0]
    assert labeler.size.sum() == NUM_IMAGES
    assert torch.equal(labeler.size, labeler.labels.sizes())


def test_gathering_keeps_what_one_process_has():
    x = torch.randn(5, 3)
    assert gather_rows(x, 5) is x
