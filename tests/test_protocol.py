"""The protocol of the comparison: its scores by hand, of every kind of head, and as a tool."""

import json
import runpy
import sys
from urllib.error import URLError

import numpy as np
import pytest
import torch
from conftest import CONFIGS, DIGITS, ROOT, tiny
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn
from torch.utils.data import Subset

from mmcoke.datasets import InMemoryImages
from mmcoke.datasets.cifar10 import cifar10_sources, save_npz, stratified, write_part
from mmcoke.datasets.in_memory import load_split
from mmcoke.engine.launch import train
from mmcoke.evaluation import clustering_scores, extract_features, knn_classify, linear_probe
from mmcoke.evaluation.clusterings import Clusters, clusters_of
from mmcoke.evaluation.protocol import protocol_scores
from mmcoke.features.extraction import own_features, pooled, resident_features
from mmcoke.registry import MODELS

RED, GREEN, BLUE = np.eye(3, dtype=np.uint8) * 200


class Means(nn.Module):
    """A network whose features are the mean colours."""

    neck = None

    def data_preprocessor(self, data, training):
        return dict(inputs=data['inputs'].float())

    def backbone(self, images):
        return (images,)


class WithNeck(Means):
    def neck(self, maps):
        return (maps[-1].mean((2, 3)).flip(1),)  # blue, green, red


def coloured(path, colours, labels):
    images = np.repeat(np.array(colours, np.uint8)[:, None], 16, 1).reshape(-1, 4, 4, 3)
    images[:, 0, 0] += np.arange(len(images), dtype=np.uint8)[:, None]  # all images differ
    save_npz(path, x=images, y=np.array(labels))
    return InMemoryImages(str(path), pipeline=[dict(type='PackInputs')])


@pytest.fixture
def colours(tmp_path):
    """Nine training images, three of each class; six test images, the last two of class 0, 1
    with the colour of class 2."""
    train = coloured(tmp_path / 'a.npz', [RED, GREEN, BLUE] * 3, [0, 1, 2] * 3)
    test = coloured(tmp_path / 'b.npz', [RED, RED, GREEN, GREEN, BLUE, BLUE], [0, 0, 1, 1, 0, 1])
    return train, test


def test_scores_by_hand(colours):
    found = protocol_scores(Means(), *colours, {}, ks=(1, 3))
    assert found['head'] is None  # no neck, no head
    assert found['knn'] == {'1': pytest.approx(4 / 6), '3': pytest.approx(4 / 6)}
    assert found['linear'] == pytest.approx(4 / 6)
    assert found['kmeans']['train'] == dict(acc=1.0, nmi=pytest.approx(1), ari=1.0)
    assert found['kmeans']['test']['acc'] == pytest.approx(4 / 6)
    # Pairs of the same cluster 3, of the same class 2 * 3, of both 2, of 15: 4 * 9 = 36 > 18.
    assert found['kmeans']['test']['ari'] == pytest.approx((2 - 18 / 15) / ((3 + 6) / 2 - 18 / 15))
    assert found['kmeans']['train_and_test']['acc'] == pytest.approx(13 / 15)


def test_the_first_head_with_as_many_clusters_as_classes_counts(colours):
    blue_green_red = torch.eye(3)
    heads = dict(many=Clusters(torch.eye(4, 3)), right=Clusters(7 * blue_green_red))
    heads |= dict(late=Clusters(torch.ones(3, 3)))
    head = protocol_scores(WithNeck(), *colours, heads, ks=(1,), linear=False)['head']
    assert head['name'] == 'right'
    assert head['train']['acc'] == 1
    assert head['test']['acc'] == pytest.approx(4 / 6)
    assert head['train_and_test']['acc'] == pytest.approx(13 / 15)


def test_images_without_labels_or_too_few_are_refused(colours, tmp_path):
    save_npz(tmp_path / 'c.npz', x=colours[0].images)
    unlabelled = InMemoryImages(str(tmp_path / 'c.npz'), pipeline=[dict(type='PackInputs')])
    with pytest.raises(ValueError, match=r'c\.npz has no labels'):
        protocol_scores(Means(), unlabelled, colours[1], {})
    with pytest.raises(ValueError, match=r'k must be in 1 \.\.\. 9 \(training samples\)'):
        protocol_scores(Means(), *colours, {})


def test_centers_take_unit_vectors_and_a_classifier_does_not():
    x = torch.tensor([[10.0, 1.0], [0.1, 0.3], [2.0, 1.9]])
    centers = torch.tensor([[1.0, 0.0], [0.0, 5.0]])  # as long as one: nearest by angle
    assert Clusters(centers).assign(x).tolist() == [0, 1, 0]
    bias = torch.tensor([1.0, 0.0])
    # 10 + 1 > 5; .1 + 1 < 1.5; 2 + 1 < 9.5
    assert Clusters(centers, bias).assign(x).tolist() == [0, 1, 1]


def test_nested_centers_take_the_first_dimensions():
    x = torch.tensor([[10.0, 1.0, 9.0], [0.1, 0.3, -9.0]])
    assert Clusters(torch.eye(2)).assign(x).tolist() == [0, 1]


@pytest.mark.parametrize(
    ('state', 'expected'),
    [
        ({'labelers.0.kmeans.centers': 10, 'labelers.1.kmeans.centers': 20}, {'labelers.0': 10}),
        ({'labelers.0.centers': 10, 'labelers.0.weight': 11}, {'labelers.0': 10}),  # SeCu
        ({'module.labelers.0.centers': 10}, {'labelers.0': 10}),
        ({'head.prototypes.0.weight': 10}, {'head.prototypes.0': 10}),  # SwAV
        ({'labelers.0.prototypes': 10}, {'labelers.0.prototypes': 10}),
        ({'head.fc_cls.weight': 10, 'head.fc_cls.bias': 10}, {'head.fc_cls': 10}),
        # ODC: what it learns is the classifier.
        ({'labelers.0.centroids': 12, 'head.fc_cls.weight': 12, 'head.fc_cls.bias': 12}, {}),
        ({'backbone.weight': 10}, {}),
    ],
)
def test_what_assigns_images_is_found_in_a_checkpoint(state, expected, tmp_path):
    weights = {k: torch.ones(n, 2) if 'bias' not in k else torch.ones(n) for k, n in state.items()}
    torch.save(dict(state_dict=weights), tmp_path / 'c.pth')
    found = {name: len(part.weight) for name, part in clusters_of(tmp_path / 'c.pth').items()}
    assert {name: k for name, k in found.items() if k == 10} == expected


@pytest.mark.parametrize('method', DIGITS)
def test_heads_of_the_methods_are_found(method, tmp_path):
    init_default_scope('mmcoke')
    cfg = tiny(method)
    model = MODELS.build(cfg.model)
    model.init_labelers(1257)
    torch.save(model.state_dict(), tmp_path / 'c.pth')
    sizes = [len(part.weight) for part in clusters_of(tmp_path / 'c.pth').values()]
    k = cfg.model.clustering.num_clusters
    assert sizes == (k if isinstance(k, list) else [k])


def test_the_learned_classifier_counts_and_not_the_centers_it_started_from(tmp_path):
    start, learned = torch.eye(3), torch.eye(3).flip(0)
    state = {'labelers.0.centers': start, 'head.weight': learned}
    torch.save(dict(state_dict=state), tmp_path / 'c.pth')
    (clusters,) = clusters_of(tmp_path / 'c.pth').values()
    assert clusters.assign(torch.eye(3)).tolist() == [2, 1, 0]


def test_features_of_whole_batches_are_those_of_single_images():
    init_default_scope('mmcoke')
    cfg = tiny('coke')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    whole = InMemoryImages('digits', 'test', pipeline=cfg.pipeline)
    assert whole.batch([3, 1]).sample_idx.tolist() == [3, 1]
    single = InMemoryImages('digits', 'test', pipeline=[dict(type='RandomFlip', prob=0.0)])
    assert single.batch([0]) is None  # may be random, for all it knows
    single.pipeline.transforms += whole.pipeline.transforms
    for batch_size in (7, 1000):
        found, _ = resident_features(model, whole, batch_size=batch_size)
        expected, _ = extract_features(model, single)
        torch.testing.assert_close(found, expected)
    rows = [5, 3, 200]
    part = own_features(model, Subset(whole, rows), forward=pooled)
    torch.testing.assert_close(part, expected[rows])


@pytest.fixture(scope='module')
def finished_run(tmp_path_factory):
    """A work dir with a space in its name, and a folder of data as CIFAR-10's arrays."""
    folder = tmp_path_factory.mktemp('pro tocol')
    (folder / 'da ta').mkdir()
    for split in ('train', 'test'):
        images, labels = load_split('digits', split)
        save_npz(folder / 'da ta' / f'cifar10_{split}.npz', x=images, y=labels)
    cfg = tiny('coke', folder / 'run')
    cfg.model.clustering.num_clusters = [12, 10]
    cfg.train_cfg.max_epochs = 2
    model = train(cfg)
    return folder, model


def scores(*arguments):
    """The tool, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', ['scores.py', *map(str, arguments)])
        runpy.run_path(str(ROOT / 'tools/benchmarks/scores.py'), run_name='__main__')


def test_the_tool_scores_the_last_checkpoint_of_a_run(finished_run, capsys):
    folder, model = finished_run
    scores(folder / 'run', '--data', folder / 'da ta')
    record = json.loads((folder / 'run/scores.json').read_text())
    assert record['epoch'] == 2 and record['checkpoint']['name'] == 'epoch_2.pth'
    assert record['num_images'] == dict(train=1257, test=540)

    pipeline = Config.fromfile(CONFIGS / 'coke/coke_tiny_1xb64_digits.py').pipeline
    sets = [InMemoryImages('digits', split, pipeline=pipeline) for split in ('train', 'test')]
    (x, _), (x_test, p_test) = (extract_features(model, dataset) for dataset in sets)
    y, y_test = (torch.from_numpy(dataset.labels) for dataset in sets)
    found = record['scores']
    head = (p_test @ model.labelers[1].kmeans.centers.T).argmax(1)
    assert found['head']['name'] == 'labelers.1'
    assert found['head']['test'] == pytest.approx(clustering_scores(head, y_test))
    for k in (20, 200):
        expected = (knn_classify(x, y, x_test, k=k) == y_test).double().mean().item()
        assert found['knn'][str(k)] == pytest.approx(expected)
    expected = (linear_probe(x, y, x_test) == y_test).double().mean().item()
    assert found['linear'] == pytest.approx(expected)
    assert f'{100 * expected:.1f}' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['{}/run', '--data', '{}/nothing'], 'nothing holds neither cifar10_train.npz and'),
        (['{}/da ta', '--data', '{}/da ta'], 'There is no config in .*da ta. Name it: --config'),
        (['{}/empty', '--data', '{}/da ta'], 'There is no checkpoint in .*Name one: --checkpoint'),
    ],
)
def test_what_is_missing_is_told_in_one_line(arguments, message, finished_run):
    folder, _ = finished_run
    (folder / 'empty').mkdir(exist_ok=True)
    (folder / 'empty/config.py').write_text('model = dict(backbone=dict(type="PlainConvNet"))')
    with pytest.raises(SystemExit, match=message) as stop:
        scores(*(text.format(folder) for text in arguments))
    assert '\n' not in str(stop.value)


def test_images_of_another_kind_are_told_in_one_line(finished_run, tmp_path):
    for split in ('train', 'test'):
        x, y = np.zeros((20, 8, 8, 3), np.uint8), np.arange(20) % 10
        save_npz(tmp_path / f'cifar10_{split}.npz', x=x, y=y)
    with pytest.raises(SystemExit, match='images of 1 channels, but these have 3') as stop:
        scores(finished_run[0] / 'run', '--data', tmp_path, '--out', tmp_path / 'scores.json')
    assert '\n' not in str(stop.value)


def test_sources_are_arrays_the_archive_or_a_download(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match='--download'):
        cifar10_sources(tmp_path, download=False)
    read = []
    monkeypatch.setattr('mmcoke.datasets.cifar10.load_split', lambda *args: read.append(args))
    archive = dict(type='CIFAR10', data_root=str(tmp_path), split='test')
    assert cifar10_sources(tmp_path)['test'] == archive
    assert read == [(archive, 'all')]  # which downloads, before anything is trained
    (tmp_path / 'cifar-10-python.tar.gz').touch()
    assert cifar10_sources(tmp_path, download=False)['test'] == archive
    save_npz(tmp_path / 'cifar10_train.npz', x=np.zeros((2, 4, 4), np.uint8))
    with pytest.raises(ValueError, match='neither'):  # half of it
        cifar10_sources(tmp_path)
    save_npz(tmp_path / 'cifar10_test.npz', x=np.zeros((2, 4, 4), np.uint8))
    assert cifar10_sources(tmp_path)['train'] == str(tmp_path / 'cifar10_train.npz')


def test_a_download_that_fails_ends_with_the_remedy(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise URLError('no network')

    monkeypatch.setattr('mmpretrain.datasets.cifar.download_and_extract_archive', fail)
    message = r'could not be downloaded \(.*no network.*\)\. Put cifar-10-python\.tar\.gz or'
    with pytest.raises(ValueError, match=message) as stop:
        cifar10_sources(tmp_path / 'data')
    assert '\n' not in str(stop.value)


def test_a_stratified_part_has_equal_shares_and_is_always_the_same(tmp_path):
    labels = np.repeat([7, 8, 9], [50, 3, 20])
    rows = stratified(labels, 12)
    assert np.unique(labels[rows], return_counts=True)[1].tolist() == [5, 3, 4]
    assert (rows == stratified(labels, 12)).all() and (np.diff(rows) > 0).all()
    assert set(rows) < set(stratified(labels, 30))
    write_part('digits', 100, tmp_path / 'part.npz')
    part = InMemoryImages(str(tmp_path / 'part.npz'))
    assert np.bincount(part.labels).tolist() == [10] * 10
    with pytest.raises(ValueError, match=r'9999 images cannot be chosen by class: .* 1797 images'):
        write_part('digits', 9999, tmp_path / 'part.npz')
