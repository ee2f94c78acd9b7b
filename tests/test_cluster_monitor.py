"""What the monitor writes is what the checkpoints say; a resumed run writes what it would have."""

import json
import signal

import numpy as np
import pytest
import spy_hook  # noqa: F401 (SignalHook)
import torch
from conftest import DIGITS, tiny
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from mmcoke.engine.hooks.cluster_monitor_hook import STATS, true_classes
from mmcoke.engine.launch import train
from mmcoke.engine.work_dir import resume_last
from mmcoke.files import read_checkpoint


def lines_of(work_dir):
    return [json.loads(line) for line in (work_dir / STATS).read_text().splitlines()]


def labels_in(path, head=0):
    return read_checkpoint(path)['state_dict'][f'labelers.{head}.labels.label'].numpy()


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """Three epochs of CoKe on some digits; the first one is at learning rate 0."""
    work_dir = tmp_path_factory.mktemp('work dir')
    model = train(tiny('coke', work_dir, num_images=320))
    return work_dir, model, lines_of(work_dir)


def test_there_is_a_line_per_epoch_and_clustering(run):
    _, _, lines = run
    assert [(x['epoch'], x['clustering']) for x in lines] == [
        (epoch, name) for epoch in (1, 2, 3) for name in ('coke/8', 'coke/12')
    ]


def test_sizes_and_changes_are_those_of_the_labels_in_the_checkpoints(run):
    work_dir, _, lines = run
    before, after = (labels_in(work_dir / f'epoch_{epoch}.pth', 1) for epoch in (2, 3))
    last = lines[-1]
    sizes = np.bincount(after[after >= 0], minlength=12)
    assert (last['min_size'], last['max_size']) == (sizes.min(), sizes.max())
    share = sizes[sizes > 0] / sizes.sum()
    assert last['perplexity'] == pytest.approx(np.exp(-(share * np.log(share)).sum()))
    assert last['num_small'] == (sizes < 0.4 / 12 * sizes.sum()).sum()
    both = (before >= 0) & (after >= 0)
    assert last['changed'] == pytest.approx((before != after)[both].mean())
    nmi = normalized_mutual_info_score(before[both], after[both])
    assert last['nmi'] == pytest.approx(nmi)
    assert 'nmi' not in lines[0]  # no label before the first epoch


def test_classes_are_those_of_the_data_set(run):
    work_dir, _, lines = run
    label = labels_in(work_dir / 'epoch_3.pth')
    cfg = tiny('coke', work_dir, num_images=320)
    from mmcoke.registry import DATASETS

    classes = true_classes(DATASETS.build(dict(cfg.train_dataloader.dataset))).numpy()
    seen = label >= 0
    last = lines[-2]
    assert last['class_nmi'] == pytest.approx(
        normalized_mutual_info_score(classes[seen], label[seen])
    )
    assert last['class_ari'] == pytest.approx(adjusted_rand_score(classes[seen], label[seen]))


def test_features_are_those_of_the_last_images_with_their_labels_and_centers(run):
    work_dir, model, lines = run
    # All 320 images come once in an epoch, and each batch is seen: 5 x 64 <= 1,024.
    kmeans = model.labelers[1].kmeans
    assert torch.equal(
        kmeans.centers,
        read_checkpoint(work_dir / 'epoch_3.pth')['state_dict']['labelers.1.kmeans.centers'],
    )
    x_nD, idx_n = model.seen
    own = (x_nD * kmeans.centers[model.labelers[1].labels.read(idx_n)]).sum(1) / x_nD.norm(dim=1)
    # Of the last batch alone: a part of the mean over five.
    assert lines[-1]['similarity'] == pytest.approx(own.mean().item(), abs=0.1)
    assert 0 < lines[-1]['effective_rank'] <= 8 and 0 < lines[-1]['feature_std'] <= 1


@pytest.mark.parametrize('method', sorted(DIGITS))
def test_every_method_is_measured_and_keeps_within_the_bound_of_its_duals(method, tmp_path):
    cfg = tiny(method, tmp_path, num_images=320)
    cfg.train_cfg.max_epochs = 2
    train(cfg)
    lines = lines_of(tmp_path)
    assert {line['epoch'] for line in lines} == {1, 2}
    for line in lines:
        assert line['min_size'] <= line['q50_size'] <= line['max_size']
        assert line['violation'] <= line.get('violation_bound', 1) + 1e-6
        assert ('violation_bound' in line) == (method in ('coke', 'secu', 'selflabel'))
        assert ('similarity' in line) == (method not in ('deepcluster', 'sela'))
        assert line['feature_std'] > 0 and 0 <= line['class_nmi'] <= 1


def test_labels_by_k_means_first_do_not_count_against_the_duals(tmp_path):
    cfg = tiny('coke', tmp_path, num_images=320)
    cfg.train_cfg.max_epochs = 1
    cfg.custom_hooks.append(dict(type='KMeansStartHook', pipeline=cfg.pipeline))
    train(cfg)
    lines = lines_of(tmp_path)
    assert all(line['violation'] <= line['violation_bound'] + 1e-6 for line in lines)
    assert lines[1]['violation'] > 0  # so the duals that the hook set to 0 would not do


def test_a_resumed_run_writes_what_it_would_have_written(run, tmp_path):
    work_dir, _, lines = run
    # Killed in its third epoch, while it wrote.
    written = [*lines[:4], dict(lines[4], min_size=-1)]
    text = ''.join(json.dumps(line) + '\n' for line in written) + '{"epoch": 3,'
    (tmp_path / STATS).write_text(text)
    cfg = tiny('coke', tmp_path, num_images=320)
    cfg.resume, cfg.load_from = True, str(work_dir / 'epoch_2.pth')
    train(cfg)
    assert lines_of(tmp_path) == lines


@pytest.mark.parametrize('iteration', [8, 10])
def test_of_an_epoch_that_is_taken_up_only_what_is_known_is_written(run, tmp_path, iteration):
    """Epochs have five iterations: behind the tenth there is nothing left of the second."""
    *_, lines = run
    cfg = tiny('coke', tmp_path, num_images=320)
    hook = dict(type='SignalHook', iteration=iteration, signum=int(signal.SIGINT))
    cfg.custom_hooks.append(hook)
    with pytest.raises(SystemExit):
        train(cfg)
    cfg = tiny('coke', tmp_path, num_images=320)
    cfg.resume = True
    resume_last(cfg)
    train(cfg)
    found = lines_of(tmp_path)
    assert found[:2] == lines[:2] and found[4:] == lines[4:]
    unknown = {'violation_bound', 'changed', 'nmi'}
    features = {'feature_std', 'effective_rank', 'similarity', 'margin'}
    missing = unknown | (features if iteration == 10 else set())
    for line, whole in zip(found[2:4], lines[2:4], strict=True):
        assert set(whole) - set(line) == missing
        same = set(line) - features
        assert {name: line[name] for name in same} == {name: whole[name] for name in same}


def test_images_without_classes_have_no_scores():
    class Unlabelled:
        def __len__(self):
            return 2

        def get_data_info(self, row):
            return dict(img_path=str(row), sample_idx=row)

    assert len(true_classes(Unlabelled())) == 0
