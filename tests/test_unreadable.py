"""Images that cannot be read: all are named, marked or left out; none is replaced by another."""

import json
import os
import re
import runpy
import sys

import cv2
import mmcv
import numpy as np
import pytest
import torch
from conftest import ROOT, fork_ranks, tiny
from mmcv.transforms import BaseTransform
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from PIL import Image
from torch.utils.data import DataLoader

from mmcoke.clustering import KMeansResult, ODCLabeler, PseudoLabels
from mmcoke.datasets import ClusterUniformSampler, CustomDataset, UnreadableImageError
from mmcoke.datasets.loading import skip_unreadable
from mmcoke.datasets.seeded_pipeline import seed_pipelines
from mmcoke.engine.hooks import SkipUnreadableHook
from mmcoke.engine.hooks.refit_hook import RefitHook
from mmcoke.engine.launch import build_runner
from mmcoke.features.backbones import load_frozen
from mmcoke.features.extraction import view_of
from mmcoke.features.extractor import FeatureExtractor
from mmcoke.features.plain_images import folder_images
from mmcoke.features.store import FEATURES, extract_to_disk, rows_left_out
from mmcoke.models.heads import ClusterClsHead
from mmcoke.registry import MODELS, TRANSFORMS

POOLED = {'pooled': FEATURES['pooled']}
BROKEN = {0: b'', 4: b'no image', 7: b'\x89PNG\r\n\x1a\n'}  # the first is looked at early
NUM = 12


@pytest.fixture
def photos(tmp_path):
    """A folder per class with six images each; three of the twelve are no images."""
    paths = make_photos(tmp_path / 'photos')
    break_some(paths)
    return tmp_path / 'photos'


def make_photos(folder, num_per_class=6, seed=0):
    random = np.random.default_rng(seed)
    paths = []
    for name in ('ant', 'bee'):
        (folder / name).mkdir(parents=True)
        for i in range(num_per_class):
            # Classes that are easily told apart.
            pixels = random.integers(0, 60, (32, 32, 3)) + [0, 180][name == 'bee']
            paths.append(folder / name / f'{i}.png')
            Image.fromarray(pixels.astype(np.uint8)).save(paths[-1])
    return paths


def break_some(paths, broken=BROKEN):
    for row, content in broken.items():
        paths[row].write_bytes(content)


def repair(paths, rows=BROKEN):
    for row in rows:
        Image.new('RGB', (32, 32), (row, 0, 0)).save(paths[row])


@pytest.fixture(scope='module')
def net(tmp_path_factory):
    """Config and checkpoint of a small network."""
    folder = tmp_path_factory.mktemp('net')
    backbone = dict(type='PlainConvNet', in_channels=3, channels=[4, 6, 8])
    preprocessor = dict(type='SelfSupDataPreprocessor', mean=[127.5] * 3, std=[60.0] * 3)
    cfg = dict(model=dict(type='CoKe', backbone=backbone, data_preprocessor=preprocessor))
    Config(cfg | dict(default_scope='mmcoke')).dump(folder / 'net.py')
    with DefaultScope.overwrite_default_scope('mmcoke'):
        torch.manual_seed(0)
        model = MODELS.build(backbone)
    state = {f'backbone.{name}': x for name, x in model.state_dict().items()}
    torch.save(dict(state_dict=state), folder / 'net.pth')
    return folder / 'net.py', folder / 'net.pth'


def run(tool, *arguments):
    """Run a tool in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', [tool, *map(str, arguments)])
        runpy.run_path(str(ROOT / 'tools' / tool), run_name='__main__')


def refused(capsys, tool, *arguments):
    """The line with which a tool ends: of wrong arguments its parser's, with the status 2."""
    with pytest.raises(SystemExit) as end:
        run(tool, *arguments)
    if isinstance(end.value.code, str):
        return end.value.code
    assert end.value.code == 2
    return capsys.readouterr().err.splitlines()[-1].split(': ', 1)[1]


def listed(path):
    """Rows of the images in ``unreadable.txt``, told by class and number."""
    names = [line.split('\t')[0] for line in path.read_text().splitlines()]
    found = [re.search(r'(ant|bee)/(\d+)\.png$', name).groups() for name in names]
    return [6 * (name == 'bee') + int(number) for name, number in found]


# ---- features on disk


@pytest.mark.parametrize('num_workers', [0, 2])
def test_all_are_named_and_the_features_of_the_others_kept(num_workers, net, photos, tmp_path):
    network = load_frozen(*net)
    dataset, out = folder_images(network, photos, size=28), tmp_path / 'out'
    options = dict(batch_size=2, num_workers=num_workers)
    with pytest.raises(UnreadableImageError, match=r'^3 of 12 images .*ant/0\.png \(') as info:
        extract_to_disk(network, dataset, out, POOLED, **options)
    assert str(out / 'unreadable.txt') in str(info.value)
    assert 'tools/check_data.py folder' in str(info.value)
    assert listed(out / 'unreadable.txt') == [*BROKEN]

    repair(sorted(photos.glob('*/*.png')))
    pipeline, read = dataset.pipeline, []
    dataset.pipeline = lambda record: [read.append(record['sample_idx']), pipeline(record)][1]
    options['num_workers'] = 0
    arrays = extract_to_disk(network, dataset, out, POOLED, **options)
    probes = 4
    assert read[probes:] == [*BROKEN]
    expected = extract_to_disk(network, dataset, tmp_path / 'again', POOLED)
    np.testing.assert_allclose(arrays['pooled'], expected['pooled'], atol=1e-6)
    assert not (out / 'unreadable.txt').exists() and rows_left_out(out) == []
    assert (out / 'names.txt').read_text().split() == [
        f'{name}/{i}.png' for name in ('ant', 'bee') for i in range(6)
    ]


def test_rows_that_are_left_out_are_marked_and_tried_again_when_wanted(net, photos, tmp_path):
    network = load_frozen(*net)
    dataset, out = folder_images(network, photos, size=28), tmp_path / 'out'
    arrays = extract_to_disk(network, dataset, out, POOLED, skip_unreadable=True)
    assert np.flatnonzero(np.isnan(arrays['pooled']).all(1)).tolist() == [*BROKEN]
    assert np.isfinite(np.delete(arrays['pooled'], [*BROKEN], 0)).all()
    assert np.flatnonzero(arrays['gt_label'] == -1).tolist() == [*BROKEN]
    assert rows_left_out(out) == listed(out / 'unreadable.txt') == [*BROKEN]
    extract_to_disk(network, dataset, out, POOLED, skip_unreadable=True)  # complete
    with pytest.raises(UnreadableImageError, match='3 of 12'):
        extract_to_disk(network, dataset, out, POOLED)
    repair(sorted(photos.glob('*/*.png')), [4])
    with pytest.raises(UnreadableImageError, match='2 of 12'):
        extract_to_disk(network, dataset, out, POOLED)
    arrays = extract_to_disk(network, dataset, out, POOLED, skip_unreadable=True)
    assert np.isfinite(arrays['pooled'][4]).all() and arrays['gt_label'][4] == 0
    assert rows_left_out(out) == [0, 7]


def test_a_folder_without_any_readable_image_is_refused(net, photos, tmp_path):
    for path in photos.glob('*/*.png'):
        path.write_bytes(b'no image')
    network = load_frozen(*net)
    dataset = folder_images(network, photos, size=28)
    with pytest.raises(UnreadableImageError, match='12 of 12 images'):
        extract_to_disk(network, dataset, tmp_path / 'out', POOLED, skip_unreadable=True)


def test_other_files_of_the_same_number_are_other_features(net, tmp_path):
    paths = make_photos(tmp_path / 'photos')
    network = load_frozen(*net)
    dataset, out = folder_images(network, tmp_path / 'photos', size=28), tmp_path / 'out'
    extract_to_disk(network, dataset, out, POOLED)
    paths[3].rename(paths[3].with_name('3b.png'))  # none of those that are looked at
    dataset = folder_images(network, tmp_path / 'photos', size=28)
    with pytest.raises(ValueError, match='differ in names'):
        extract_to_disk(network, dataset, out, POOLED)


# ---- the tools


def test_the_tool_names_the_option_and_takes_it(net, photos, tmp_path, capsys):
    arguments = [*net, '--data-root', photos, '--size', 28, '--out', tmp_path, '--num-workers', 0]
    with pytest.raises(SystemExit, match=r'3 of 12 images .* add --skip-unreadable\.') as info:
        run('extract_features.py', *arguments)
    assert '\n' not in str(info.value)
    run('extract_features.py', *arguments, '--skip-unreadable')
    assert '3 images cannot be read; their rows are NaN' in capsys.readouterr().out
    assert np.isnan(np.load(tmp_path / 'pooled.npy')).all(1).sum() == 3


def test_knn_and_clustering_leave_them_out(net, photos, tmp_path):
    photos.rename(tmp_path / 'train')
    break_some(make_photos(tmp_path / 'val', seed=1), {11: b''})
    arguments = [*net, '--data-root', tmp_path, '--size', 28, '--out', tmp_path / 'out']
    arguments += ['--num-workers', 0, '--skip-unreadable']
    run('benchmarks/knn.py', *arguments, '--k', 3)
    (row,) = json.loads((tmp_path / 'out/knn.json').read_text())['rows']
    assert row == dict(k=3, top1=100.0, num_train=9, num_val=11)
    run('benchmarks/cluster.py', *arguments)
    (row,) = json.loads((tmp_path / 'out/cluster.json').read_text())['rows']
    assert (row['num_images'], row['acc']) == (11, 1.0)


@pytest.mark.parametrize(
    ('tool', 'arguments', 'message'),
    [
        ('knn.py', ['--k', 5, 13], r'k must be in 1 \.\.\. 12 .* but is 13'),
        ('knn.py', ['--k', 0], '--k must be at least 1, but is 0'),
        ('knn.py', ['--temperature', 0], '--temperature must be positive'),
        ('knn.py', ['--temperature', 'nan'], '--temperature must be positive'),
        ('knn.py', ['--size', 0], '--size must be at least 1'),
        ('knn.py', ['--batch-size', 0], '--batch-size must be at least 1, but is 0'),
        ('cluster.py', ['--num-workers', -1], '--num-workers must be at least 0'),
        ('cluster.py', ['--restarts', 0], '--restarts must be at least 1'),
    ],
)
def test_impossible_numbers_are_refused_before_anything_is_extracted(
    tool, arguments, message, net, tmp_path, capsys
):
    for split in ('train', 'val'):
        make_photos(tmp_path / split)
    options = ['--data-root', tmp_path, '--size', 28, '--out', tmp_path / 'out']
    line = refused(capsys, f'benchmarks/{tool}', *net, *options, *arguments)
    assert re.match(f'error: {message}', line) and '\n' not in line
    assert not (tmp_path / 'out').exists()


@pytest.mark.slow
def test_two_processes_name_and_leave_out_the_same(net, photos, tmp_path):
    tool = ['extract_features.py', *net, '--data-root', photos, '--size', 28]
    tool += ['--out', tmp_path / 'out', '--num-workers', 1, '--batch-size', 2]
    codes, said = fork_ranks(2, *tool, folder=tmp_path)
    assert codes == [1, 1] and '3 of 12 images cannot be read' in said
    assert listed(tmp_path / 'out/unreadable.txt') == [*BROKEN]
    codes, said = fork_ranks(2, *tool, '--skip-unreadable', folder=tmp_path)
    assert codes == [0, 0], said[-3000:]
    assert np.isnan(np.load(tmp_path / 'out/pooled.npy')).all(1).nonzero()[0].tolist() == [*BROKEN]


# ---- in Python, and the gallery


def test_the_extractor_names_all_or_leaves_them_out(net, photos):
    extractor = FeatureExtractor(*net, size=28, batch_size=2, progress=False)
    with pytest.raises(UnreadableImageError, match=r'3 of 12 images .*skip_unreadable=True'):
        extractor(photos)
    assert [note.row for note in extractor.unreadable] == [*BROKEN]
    features, paths = extractor(photos, skip_unreadable=True)
    everything = sorted(photos.glob('*/*.png'))
    assert paths == [path for row, path in enumerate(everything) if row not in BROKEN]
    assert np.isfinite(features).all() and len(features) == 9
    rows = extractor(everything, skip_unreadable=True)
    assert np.array_equal(rows[[row for row in range(NUM) if row not in BROKEN]], features)
    assert np.isnan(rows[[*BROKEN]]).all()
    extractor(paths)
    assert extractor.unreadable == []


def test_the_gallery_leaves_them_out_and_lists_them(net, photos, tmp_path):
    page = tmp_path / 'page.html'
    arguments = [photos, '--config', net[0], '--checkpoint', net[1], '--num-clusters', 2]
    arguments += ['--out', page]
    with pytest.raises(SystemExit, match=r'^error: 3 of 12 images .*--skip-unreadable'):
        run('photo_gallery.py', *arguments)
    assert listed(tmp_path / 'page_unreadable.txt') == [*BROKEN]
    run('photo_gallery.py', *arguments, '--skip-unreadable')
    assert page.read_text().count('<img src="data:') == 9


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--num-clusters', 13], 'num_clusters=13 is more than the 12'),
        (['--num-clusters', 0], '--num-clusters must be at least 1'),
        (['--num-clusters', 2, '--num-workers', -1], '--num-workers must be at least 0'),
        (['--num-clusters', 2, '--out', '.'], r'\. is a folder'),
    ],
)
def test_the_gallery_refuses_before_the_work(
    arguments, message, net, tmp_path, monkeypatch, capsys
):
    make_photos(tmp_path / 'photos')
    monkeypatch.setattr(FeatureExtractor, '__init__', lambda *_, **__: pytest.fail('started'))
    network = ['--config', net[0], '--checkpoint', net[1]]
    line = refused(capsys, 'photo_gallery.py', tmp_path / 'photos', *network, *arguments)
    assert re.match(f'error: {message}', line)


# ---- training


class LoadCarefully(BaseTransform):
    """A loader of one's own that fails in its own way."""

    def transform(self, results):
        if os.path.getsize(results['img_path']) < 20:
            raise KeyError('header')
        image = np.array(Image.open(results['img_path']).convert('L'))
        return results | dict(img=image, img_shape=image.shape)


TRANSFORMS.register_module()(LoadCarefully)


def training(method, photos, work_dir, loader='LoadImageFromFile', num_workers=0):
    """The tiny recipe of a method, on photos, without images that cannot be read."""
    cfg = tiny(method, work_dir)
    load = dict(type=loader)
    if loader == 'LoadImageFromFile':
        load['color_type'] = 'grayscale'
    cfg.train_dataloader.dataset = ConfigDict(
        type='CustomDataset',
        data_root=str(photos),
        with_label=False,
        pipeline=[load, dict(type='RandomFlip', prob=0.5), *cfg.pipeline],
    )
    cfg.train_dataloader.batch_size = 3
    cfg.train_dataloader.num_workers = num_workers
    cfg.train_dataloader.persistent_workers = num_workers > 0
    cfg.model.clustering.num_clusters = [2] if method == 'coke' else 2
    if method == 'deepcluster':
        cfg.model.clustering.pca_dim = None
    elif method == 'odc':
        cfg.model.clustering.min_size = 1
    if method in ('deepcluster', 'odc'):
        # As a user leaves it: the training set's own loader takes the place of this one.
        plain = dict(type='LoadImageFromFile', color_type='grayscale')
        cfg.custom_hooks[0].update(pipeline=[plain, *cfg.pipeline], num_workers=num_workers)
    cfg.custom_hooks = [dict(type='mmcoke.SkipUnreadableHook'), *cfg.custom_hooks]
    return cfg


def seen_by(model):
    """List that gets the sample_idx of whatever a model trains on."""
    seen, loss = [], model.loss

    def noting(inputs, sample_idx):
        seen.extend(sample_idx.tolist())
        return loss(inputs, sample_idx)

    model.loss = noting
    return seen


@pytest.mark.parametrize('num_workers', [0, 2])
@pytest.mark.parametrize('method', ['coke', 'deepcluster', 'deepclusterv2', 'odc', 'sela'])
def test_training_goes_on_without_them_and_they_get_no_label(method, num_workers, photos, tmp_path):
    runner = build_runner(training(method, photos, tmp_path / 'work', num_workers=num_workers))
    seen = seen_by(runner.model)
    runner.train()
    assert seen and set(seen).isdisjoint(BROKEN)
    for labeler in runner.model.labelers:
        assert (labeler.labels.label[[*BROKEN]] == -1).all()
    if method != 'coke':
        assert runner.model.labelers[0].sizes().sum() == 9
    assert sorted(listed(tmp_path / 'work/unreadable.txt')) == [*BROKEN]


@pytest.mark.parametrize('num_workers', [0, 2])
def test_an_image_that_is_drawn_instead_keeps_its_own_index(num_workers, photos, tmp_path):
    """And one is found, though half of the images cannot be read, in every epoch."""
    paths = sorted(photos.glob('*/*.png'))
    for row in (2, 9, 11):
        paths[row].write_bytes(b'no image')
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
    dataset = CustomDataset(data_root=str(photos), with_label=False, pipeline=pipeline)
    skip_unreadable(dataset, tmp_path / 'unreadable.txt')
    epoch = torch.zeros((), dtype=torch.int64).share_memory_()
    seed_pipelines(dataset, 0, epoch)
    loader = DataLoader(dataset, 3, num_workers=num_workers, collate_fn=lambda samples: samples)
    seen = []
    for number in range(4):
        epoch.fill_(number)
        samples = [sample for batch in loader for sample in batch]
        for sample in samples:
            row = sample['data_samples'].sample_idx
            assert np.array_equal(sample['inputs'].permute(1, 2, 0), cv2.imread(str(paths[row])))
        seen.append([sample['data_samples'].sample_idx for sample in samples])
    broken = {*BROKEN, 2, 9, 11}
    for rows in seen:
        assert broken.isdisjoint(rows)
        assert all(rows[row] == row for row in range(NUM) if row not in broken)
    assert sorted(set(listed(tmp_path / 'unreadable.txt'))) == sorted(broken)


@pytest.mark.parametrize('method', ['deepcluster', 'odc'])
def test_a_refit_clusters_the_features_of_the_others_alone(method, photos, tmp_path, monkeypatch):
    """Those that the data set's own loader reads, whatever the hook's pipeline names."""
    cfg = training(method, photos, tmp_path / 'work', loader='LoadCarefully')
    runner = build_runner(cfg)
    model, clustered = runner.model, []
    model.init_labelers(NUM)
    (labeler,) = model.labelers
    cluster = labeler.cluster

    def noting(x_AD, *args):
        clustered.append(x_AD.clone())
        return cluster(x_AD, *args)

    monkeypatch.setattr(labeler, 'cluster', noting)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    for hook in runner.hooks:
        if isinstance(hook, SkipUnreadableHook):
            hook.before_run(runner)
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, RefitHook))
    hook.refit(runner, 0)
    (x,) = clustered
    kept = [row for row in range(NUM) if row not in BROKEN]
    paths = sorted(photos.glob('*/*.png'))
    images = [np.array(Image.open(paths[row]).convert('L')) for row in kept]
    images = [mmcv.imresize(image, (16, 16)) for image in images]
    images = torch.from_numpy(np.stack(images))[:, None]
    with torch.no_grad():
        batch = dict(inputs=images, data_samples=None)
        expected = model.project(view_of(model.eval(), batch))
    torch.testing.assert_close(x, expected.float(), rtol=1e-4, atol=1e-5)
    label = labeler.labels.label
    assert (label[[*BROKEN]] == -1).all() and (label[kept] >= 0).all()
    if method == 'odc':
        assert not labeler.memory.x[[*BROKEN]].any()
        assert labeler.memory.x[kept].norm(dim=1).allclose(torch.ones(9))
    text = (tmp_path / 'work/unreadable.txt').read_text()
    assert text.count('KeyError') == 3


@pytest.mark.parametrize('method', ['deepcluster', 'odc'])
def test_without_the_option_a_refit_names_all_of_them(method, photos, tmp_path):
    cfg = training(method, photos, tmp_path / 'work')
    cfg.custom_hooks = cfg.custom_hooks[1:]
    message = r'3 of 12 images .*tools/train\.py --skip-unreadable'
    with pytest.raises(UnreadableImageError, match=message):
        build_runner(cfg).train()


def test_an_image_without_a_label_does_not_count_in_the_loss():
    torch.manual_seed(0)
    head = ClusterClsHead(4, 3)
    head.reset(0)
    x, label = torch.randn(5, 4), torch.tensor([0, 2, -1, 1, -1])
    weight = torch.tensor([0.5, 1.0, 2.0])
    found, expected = (
        head.loss(*part, weight)['loss'] for part in ((x, label), (x[[0, 1, 3]], label[[0, 1, 3]]))
    )
    torch.testing.assert_close(found, expected)
    none = head.loss(x[[2, 4]], label[[2, 4]], weight)['loss']
    assert none == 0 and none.requires_grad


def test_a_sample_that_odc_has_left_out_gets_its_label_in_its_first_step():
    x = torch.nn.functional.normalize(torch.tensor([[1.0, 0.1], [1, -0.1], [0, 0], [-1, 0.1]]))
    labeler = ODCLabeler(4, 2, 2, min_size=1)
    clusters = KMeansResult(torch.tensor([0, 0, 0, 1]), None, float('nan'), 0)
    labeler.refit(x, clusters, left_out=[2])
    assert labeler.labels.label.tolist() == [0, 0, -1, 1]
    assert labeler.sizes().tolist() == [2, 1]
    torch.testing.assert_close(labeler.centroids, torch.stack([x[:2].mean(0), x[3]]))
    new = torch.tensor([[-1.0, 0.0]])
    assert labeler.step(new, torch.tensor([2])).tolist() == [1]
    assert labeler.labels.label.tolist() == [0, 0, 1, 1] and labeler.sizes().tolist() == [2, 2]
    torch.testing.assert_close(labeler.memory.x[2:3], new)
    total = labeler.total.clone()
    labeler.recompute()
    assert torch.equal(total, labeler.total)


def test_small_clusters_are_split_around_samples_that_are_left_out():
    generator = torch.Generator().manual_seed(0)
    x = torch.nn.functional.normalize(torch.randn(12, 3, generator=generator))
    x[5] = 0
    labeler = ODCLabeler(12, 3, 3, min_size=2)
    label = torch.tensor([0] * 6 + [1] * 5 + [2])
    labeler.refit(x, KMeansResult(label, None, float('nan'), 0), left_out=[5])
    assert labeler.split_small_clusters() == 1
    assert labeler.labels.label[5] == -1
    assert labeler.sizes().sum() == 11 and labeler.sizes().min() > 0


def test_an_image_without_a_label_is_never_drawn_and_shifts_no_other():
    sampler = ClusterUniformSampler(range(10), seed=0)
    sampler.labels = PseudoLabels(10, 2)
    sampler.labels.assign_all(torch.tensor([0] * 5 + [1] * 5))
    sampler.labels.forget(torch.tensor([0, 7]))
    drawn = torch.tensor(list(sampler))
    assert len(drawn) == 10 and not {0, 7} & set(drawn.tolist())
    assert (sampler.labels.read(drawn) == 0).sum() == 5


@pytest.mark.slow
def test_two_processes_train_without_them(photos, tmp_path):
    cfg = training('deepcluster', photos, tmp_path / 'work', num_workers=1)
    cfg.custom_hooks = cfg.custom_hooks[1:]
    cfg.train_cfg.max_epochs = 1
    cfg.train_dataloader.batch_size = 2
    cfg.dump(tmp_path / 'deepcluster.py')
    tool = ['train.py', tmp_path / 'deepcluster.py', '--work-dir', tmp_path / 'work']
    codes, said = fork_ranks(2, *tool, '--skip-unreadable', folder=tmp_path)
    assert codes == [0, 0], said[-3000:]
    saved = torch.load(tmp_path / 'work/epoch_1.pth', weights_only=False)['state_dict']
    label = saved['labelers.0.labels.label']
    assert (label == -1).nonzero().flatten().tolist() == [*BROKEN]
    assert saved['labelers.0.size'].sum() == 9
    assert sorted(listed(tmp_path / 'work/unreadable.txt')) == [*BROKEN]
