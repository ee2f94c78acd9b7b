"""The kNN and clustering benchmarks as users type them, on real photos of 64x64."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from shutil import rmtree

import numpy as np
import pytest
import torch
import torchvision
from conftest import CONFIGS, ROOT
from mmengine.config import Config
from mmengine.registry import DefaultScope
from sklearn.metrics import normalized_mutual_info_score
from test_knn import brute_force
from torch.nn.functional import normalize
from torchvision import transforms
from torchvision.datasets import ImageFolder

from mmcoke.cli.main import main
from mmcoke.clustering import CoKeLabeler
from mmcoke.datasets import CustomDataset, InMemoryImages
from mmcoke.datasets.identity import name_keys, sample_keys
from mmcoke.evaluation import clustering_scores, linear_probe_folds
from mmcoke.evaluation.clusterings import (
    classes_of,
    kmeans_scores,
    label_tables,
    own_scores,
    rows_of_names,
    spread_samples,
    table_scores,
)
from mmcoke.features.extraction import check_same_classes
from mmcoke.features.labelled import check_all_lack_labels, has_splits
from mmcoke.registry import MODELS

TOOLS = ROOT / 'tools/benchmarks'
THEIRS = 'mmpretrain::resnet/resnet18_8xb32_in1k.py'
SMALL = ['--size', '64', '--num-workers', '0']


def run(tool, *arguments):
    """Run a tool in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOOLS))
        patch.setattr(sys, 'argv', [tool, *map(str, arguments)])
        runpy.run_path(str(TOOLS / tool), run_name='__main__')


def rows(path):
    return json.loads(path.read_text())['rows']


@pytest.fixture(scope='module')
def resnet():
    torch.manual_seed(0)
    return torchvision.models.resnet18(weights=None).eval()


@pytest.fixture(scope='module')
def measured(resnet, shared_data, tmp_path_factory):
    """A torchvision state dict, after kNN on caltech10, and the arguments for that."""
    folder = tmp_path_factory.mktemp('torchvision')
    torch.save(resnet.state_dict(), folder / 'resnet18.pth')
    data = ['--data-root', shared_data / 'caltech10', '--out', folder / 'out']
    arguments = [THEIRS, folder / 'resnet18.pth', *data, *SMALL]
    run('knn.py', *arguments, '--k', 5, 200)
    return folder / 'out', arguments


def test_knn_of_a_torchvision_state_dict_is_that_of_torchvisions_network(
    resnet, measured, shared_data
):
    out, _ = measured
    found = rows(out / 'knn.json')
    assert [(row['k'], row['num_train'], row['num_val']) for row in found] == [
        (5, 500, 300),
        (200, 500, 300),
    ]

    network = torch.nn.Sequential(*list(resnet.children())[:-1], torch.nn.Flatten())
    prepare = transforms.Compose(
        [
            transforms.Resize(73),
            transforms.CenterCrop(64),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    sets = []
    for split in ('train', 'val'):
        folder = ImageFolder(shared_data / 'caltech10' / split, prepare)
        images, labels = zip(*folder, strict=True)
        with torch.no_grad():
            features = [network(part) for part in torch.stack(images).split(100)]
        sets.append((torch.cat(features), torch.tensor(labels)))
    (x, y), (x_val, y_val) = sets
    for row in found:
        predicted = brute_force(x, y, x_val, row['k'], 0.07).argmax(1)
        expected = 100 * (predicted == y_val).double().mean().item()
        assert row['top1'] == pytest.approx(expected, abs=100 / 300 + 1e-6)  # rounding: one image
    table = (out / 'knn.md').read_text()
    assert '| k | top1 |' in table and 'resnet18.pth' in table


def test_a_model_of_the_zoo_is_named_by_its_address(tmp_path):
    name = 'coke_tiny_1xb64_digits'
    config = ROOT / f'configs/selfsup/coke/{name}.py'
    arguments = [config, f'mmcoke://{name}', '--out', tmp_path, '--num-workers', 0]
    run('cluster.py', *arguments, '--split', 'train')
    record = json.loads((tmp_path / 'cluster.json').read_text())
    assert re.fullmatch(rf'{name}-(\w+)\.pth', record['checkpoint']['name'])
    assert record['rows'][0]['acc'] > 0.9


def test_kmeans_takes_the_features_that_are_there(measured):
    out, arguments = measured
    written = (out / 'features/val/pooled.npy').stat().st_mtime_ns
    run('cluster.py', *arguments)
    assert (out / 'features/val/pooled.npy').stat().st_mtime_ns == written
    (row,) = rows(out / 'cluster.json')  # a torchvision file has no clusterings of its own
    x = torch.from_numpy(np.load(out / 'features/val/pooled.npy'))
    y = torch.from_numpy(np.load(out / 'features/val/gt_label.npy'))
    scores = kmeans_scores(x, y)
    assert row == dict(clusters='k-means', images='val') | scores
    assert scores['num_clusters'] == 10 and scores['num_images'] == 300
    assert 0.2 < scores['acc'] < 0.9


@pytest.mark.slow
def test_two_processes_measure_the_same(measured, tmp_path):
    out, arguments = measured
    before = rows(out / 'knn.json')
    rmtree(out / 'features/val')
    (out / 'knn.json').unlink()
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone']
    command += ['--nproc-per-node', '2', TOOLS / 'knn.py', *arguments, '--k', '5', '200']
    command += ['--launcher', 'pytorch']
    result = subprocess.run(
        list(map(str, command)),
        env=dict(os.environ, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES=''),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert rows(out / 'knn.json') == before
    assert result.stdout.count('num_train') == 1  # one table


# ---- clusterings of our own checkpoints


@pytest.fixture
def ours(shared_data, tmp_path):
    """A CoKe whose first clustering is the classes under other names, its config, its folder."""
    cfg = Config.fromfile(CONFIGS / 'coke/coke_r18_1xb256_folder.py')
    data = shared_data / 'caltech10'
    cfg.merge_from_dict(
        {
            'model.neck.hid_channels': 32,
            'model.neck.out_channels': 8,
            'model.head.in_channels': 8,
            'model.head.hid_channels': 16,
            'model.clustering.num_clusters': [10, 20],
            'train_dataloader.dataset.data_root': str(data / 'train'),
        }
    )
    cfg.dump(tmp_path / 'coke.py')
    with DefaultScope.overwrite_default_scope('mmcoke'):
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
    model.init_labelers(500)
    images = CustomDataset(data_root=str(data / 'train'), with_label=False, pipeline=[])
    names = [images.get_data_info(i)['img_path'].split('/')[-2] for i in range(500)]
    classes = torch.from_numpy(np.unique(names, return_inverse=True)[1])
    model.labelers[0].labels.assign_all((classes + 3) % 10)
    model.labelers[1].labels.assign_all(torch.arange(500) % 20)
    torch.save(dict(meta={}, state_dict=model.state_dict()), tmp_path / 'epoch_1.pth')
    return cfg, tmp_path, classes


def test_pseudo_labels_in_our_checkpoint_are_compared_with_the_classes(
    ours, shared_data, monkeypatch
):
    _, folder, classes = ours
    monkeypatch.chdir(folder)
    options = ['--data-root', shared_data / 'caltech10', *SMALL, '--restarts', 1]
    run('cluster.py', 'coke.py', 'epoch_1.pth', *options)
    means, first, second = rows(folder / 'work_dirs/coke/benchmarks/epoch_1/cluster.json')
    assert (means['clusters'], means['images'], means['num_clusters']) == ('k-means', 'val', 10)
    sizes = dict(images='train', num_images=500)
    perfect = clustering_scores(classes, classes)
    assert perfect['acc'] == 1
    assert first == dict(clusters='labelers.0', num_clusters=10, **sizes, **perfect)
    scores = clustering_scores(np.arange(500) % 20, classes)
    assert second == dict(clusters='labelers.1', num_clusters=20, **sizes, **scores)
    assert second['nmi'] == normalized_mutual_info_score(classes, np.arange(500) % 20) < 0.2


def test_knn_takes_the_data_sets_of_a_config(ours, shared_data):
    cfg, folder, _ = ours
    val = dict(type='CustomDataset', data_root=str(shared_data / 'caltech10/val'), pipeline=[])
    cfg.train_dataloader.dataset = dict(val, indices=200)
    cfg.val_dataloader = dict(batch_size=1, dataset=val)
    cfg.dump(folder / 'both.py')
    options = ['--out', folder / 'out', *SMALL, '--k', 1]
    options += ['--cfg-options', 'train_dataloader.dataset.indices=300']
    run('knn.py', folder / 'both.py', folder / 'epoch_1.pth', *options)
    (row,) = rows(folder / 'out/knn.json')
    # The same images on both sides: each is its own nearest neighbour.
    assert row == dict(k=1, top1=100.0, num_train=300, num_val=300)


def test_pseudo_labels_of_other_images_are_left_out_with_a_warning(ours, monkeypatch):
    cfg, folder, _ = ours
    said = []
    monkeypatch.setattr(
        'mmcoke.evaluation.clusterings.print_log', lambda message, **_: said.append(message)
    )
    cfg.train_dataloader.dataset.indices = 40
    assert own_scores(cfg, folder / 'epoch_1.pth') == {}
    cfg.train_dataloader.dataset = dict(type='CustomDataset', data_root=str(folder / 'absent'))
    assert own_scores(cfg, folder / 'epoch_1.pth') == {}
    cfg.pop('train_dataloader')
    assert own_scores(cfg, folder / 'epoch_1.pth') == {}
    for message, part in zip(said, ('40 training images', 'absent', 'no train'), strict=True):
        assert 'The 2 clusterings in the checkpoint are left out' in message
        assert part in message


def test_images_that_no_clustering_has_seen_are_left_out():
    scores = table_scores(torch.tensor([0, -1, 1, 1, -1], dtype=torch.int8), np.array([4] * 5))
    assert scores == dict(num_clusters=2, num_images=3) | clustering_scores([0, 1, 1], [4] * 3)
    with pytest.raises(ValueError, match=r'5 images, 3 of them .* 4 training images'):
        table_scores(torch.tensor([0, -1, 1, 1, -1]), np.array([4] * 4))
    with pytest.raises(ValueError, match='0 of them'):
        table_scores(torch.tensor([-1]), np.array([4]))


def test_classes_come_in_the_order_of_training(tmp_path):
    """Sorted by path, 'a b/0.jpg' is ahead of 'a/0.jpg'; by folder, 'a' is ahead of 'a b'."""
    for name in ('a', 'a b'):
        (tmp_path / name).mkdir()
        (tmp_path / name / '0.jpg').touch()
    (tmp_path / 'a/1.jpg').touch()
    plain = CustomDataset(data_root=str(tmp_path), with_label=False, pipeline=[])
    labelled = CustomDataset(data_root=str(tmp_path), pipeline=[])
    assert classes_of(plain).tolist() == [1, 0, 0]
    assert classes_of(labelled).tolist() == [0, 0, 1]
    (tmp_path / '2.jpg').touch()
    # Beside the folders: without a class.
    beside = CustomDataset(data_root=str(tmp_path), with_label=False, pipeline=[])
    assert classes_of(beside).tolist() == [-1, 1, 0, 0]
    for name in ('a', 'a b'):
        rmtree(tmp_path / name)
    with pytest.raises(ValueError, match='folder per class'):
        classes_of(CustomDataset(data_root=str(tmp_path), with_label=False, pipeline=[]))


def test_labels_of_the_training_set_are_its_classes():
    digits = InMemoryImages('digits', 'test', pipeline=[])
    assert classes_of(digits).tolist() == digits.labels.tolist()


def test_of_averaged_labels_the_newest_count(tmp_path):
    """As in stage 2 of CoKe; under DistributedDataParallel's prefix, too."""
    labeler = CoKeLabeler(6, 3, 4, average_from_epoch=1)
    for step, label in enumerate(([0, 0, 1, 1, 2, 2], [2, 2, 1, 1, 0, 0]), 1):
        labeler.labels.write(torch.arange(6), torch.tensor(label), step)
    for prefix in ('', 'module.'):
        state = {f'{prefix}labelers.0.{name}': x for name, x in labeler.state_dict().items()}
        torch.save(dict(state_dict=state), tmp_path / 'epoch_1.pth')
        (table,) = label_tables(tmp_path / 'epoch_1.pth').items()
        assert (table[0], table[1].tolist()) == ('labelers.0', [2, 2, 1, 1, 0, 0])


def test_kmeans_takes_the_restart_with_the_least_objective(monkeypatch):
    x, y = torch.eye(4).repeat(5, 1), torch.arange(4).repeat(5)
    seen = []

    def kmeans(x, num_clusters, init):
        seed = len(seen)
        seen.append(init)
        result = Result((y + 1 if seed == 2 else y * 0, None))
        result.objective = abs(seed - 2)
        return result

    class Result(tuple):
        pass

    monkeypatch.setattr('mmcoke.evaluation.clusterings.kmeans', kmeans)
    assert kmeans_scores(x, y, num_restarts=4)['acc'] == 1
    assert len(seen) == 4
    assert not seen[0].equal(seen[1])
    with pytest.raises(ValueError, match='num_restarts'):
        kmeans_scores(x, y, num_restarts=0)


# ---- one's own folder


@pytest.fixture(scope='module')
def labelled(shared_data, tmp_path_factory):
    """Five photos of each of three classes, a folder each."""
    folder = tmp_path_factory.mktemp('my labelled')
    for classes in sorted((shared_data / 'caltech10/val').iterdir())[:3]:
        (folder / classes.name).mkdir()
        for photo in sorted(classes.iterdir())[:5]:
            shutil.copy(photo, folder / classes.name)
    return folder


@pytest.fixture(scope='module')
def own(resnet, labelled, tmp_path_factory):
    """The arguments of all tools on that folder."""
    folder = tmp_path_factory.mktemp('own')
    torch.save(resnet.state_dict(), folder / 'resnet18.pth')
    return [THEIRS, folder / 'resnet18.pth', '--data-root', labelled, '--out', folder, *SMALL]


def test_knn_on_a_folder_of_classes_leaves_one_out(own):
    out = own[5]
    run('knn.py', *own, '--k', 1, 14)
    x = torch.from_numpy(np.load(out / 'features/all/pooled.npy'))
    y = torch.arange(3).repeat_interleave(5)
    first, all_others = rows(out / 'knn.json')
    similarity = normalize(x) @ normalize(x).T
    nearest = similarity.fill_diagonal_(-1).argmax(1)
    top1 = 100 * (y[nearest] == y).double().mean().item()
    assert first == dict(k=1, top1=pytest.approx(top1), num_images=15)
    assert all_others['k'] == 14
    assert 'leave-one-out' in (out / 'knn.md').read_text()


def test_without_a_number_of_neighbours_the_usual_ones_that_there_are(own):
    run('knn.py', *own)
    assert [row['k'] for row in rows(own[5] / 'knn.json')] == [10]
    with pytest.raises(SystemExit, match=r'error: k must be in 1 \.\.\. 14'):
        run('knn.py', *own, '--k', 15)


def test_linear_on_a_folder_of_classes_is_cross_validated(own):
    out = own[5]
    main(['evaluate', 'linear', *map(str, own)])
    x = np.load(out / 'features/all/pooled.npy')
    expected = linear_probe_folds(x, torch.arange(3).repeat_interleave(5))
    top1 = 100 * (expected == torch.arange(3).repeat_interleave(5)).double().mean().item()
    assert rows(out / 'linear.json') == [dict(top1=pytest.approx(top1), num_images=15)]


def test_linear_on_train_and_val(own, labelled, tmp_path):
    shutil.copytree(labelled, tmp_path / 'data/train')
    shutil.copytree(labelled, tmp_path / 'data/val')
    data = ['--data-root', tmp_path / 'data', '--out', tmp_path]
    main(['evaluate', 'linear', *map(str, [*own, *data])])
    # What it was fitted on, with more features than images.
    assert rows(tmp_path / 'linear.json') == [dict(top1=100.0, num_train=15, num_val=15)]


def test_kmeans_on_a_folder_of_classes_and_images_beside_them(own, labelled, tmp_path, caplog):
    shutil.copytree(labelled, tmp_path / 'data')
    shutil.copy(next(labelled.glob('*/*')), tmp_path / 'data/beside.jpg')
    run('cluster.py', *own, '--data-root', tmp_path / 'data', '--out', tmp_path / 'out')
    (row,) = rows(tmp_path / 'out/cluster.json')
    assert (row['images'], row['num_images'], row['num_clusters']) == ('all', 15, 3)


def test_the_training_images_of_an_unlabelled_set_have_the_classes_of_their_folders(
    ours, labelled, tmp_path
):
    """With --split train: some in class folders, one beside them."""
    cfg, folder, _ = ours
    shutil.copytree(labelled, tmp_path / 'data')
    shutil.copy(next(labelled.glob('*/*')), tmp_path / 'data/beside.jpg')
    cfg.train_dataloader.dataset.data_root = str(tmp_path / 'data')
    cfg.dump(folder / 'beside.py')
    options = ['--out', folder / 'out', *SMALL, '--split', 'train']
    run('cluster.py', folder / 'beside.py', folder / 'epoch_1.pth', *options)
    row, *_ = rows(folder / 'out/cluster.json')
    assert (row['images'], row['num_images'], row['num_clusters']) == ('train', 15, 3)


def test_labels_in_a_checkpoint_are_compared_by_the_names_of_files(ours, labelled, tmp_path):
    """Trained on all photos in one folder; five of each of three classes are labelled."""
    cfg, folder, _ = ours
    (tmp_path / 'photos').mkdir()
    names = [path.relative_to(labelled).as_posix() for path in sorted(labelled.glob('*/*'))]
    flat = [name.replace('/', '_') for name in names]
    for old, new in zip(names, flat, strict=True):
        shutil.copy(labelled / old, tmp_path / 'photos' / new)
    for number in range(4):  # without a class
        shutil.copy(labelled / names[0], tmp_path / f'photos/zz{number}.jpg')
    for old, new in zip(names, flat, strict=True):
        (tmp_path / 'mine' / old.split('/')[0]).mkdir(parents=True, exist_ok=True)
        shutil.copy(labelled / old, tmp_path / 'mine' / old.split('/')[0] / new)
    cfg.train_dataloader.dataset.data_root = str(tmp_path / 'photos')
    dataset = CustomDataset(data_root=str(tmp_path / 'photos'), with_label=False, pipeline=[])
    label = torch.tensor([*torch.arange(3).repeat_interleave(5), 0, 1, 2, -1])
    save_tables(folder / 'epoch_1.pth', dataset, label)
    (scores,) = own_scores(cfg, folder / 'epoch_1.pth', data_root=tmp_path / 'mine').values()
    assert scores == dict(num_clusters=3, num_images=15, num_without_class=3) | clustering_scores(
        label[:15], label[:15]
    )


def save_tables(path, dataset, label):
    """A checkpoint that holds one table of labels, and says of which images."""
    state = {'labelers.0.labels.label': label}
    torch.save(dict(state_dict=state, sample_keys=torch.from_numpy(sample_keys(dataset))), path)


def test_names_match_whole_below_the_class_or_alone():
    before = name_keys(['cat/a.jpg', 'b.jpg', 'trip/c.jpg', 'd.jpg', 'e.jpg'])
    known = {'c.jpg': 2, 'f.jpg': 9}
    names = ['cat/a.jpg', 'cat/b.jpg', 'dog/c.jpg', 'cat/d.jpg', 'dog/d.jpg', 'dog/x.jpg']
    found = rows_of_names(names, before, lambda: known)
    assert found.tolist() == [0, 1, 2, -1, -1, -1]  # two images are called d.jpg
    assert rows_of_names(names[:2], before, lambda: 1 / 0).tolist() == [0, 1]


def test_a_checkpoint_of_other_images_is_left_out_with_the_reason(
    ours, labelled, tmp_path, monkeypatch
):
    cfg, folder, _ = ours
    said = []
    monkeypatch.setattr(
        'mmcoke.evaluation.clusterings.print_log', lambda message, **_: said.append(message)
    )
    dataset = photos(tmp_path / 'others', 'ant', 'bee')
    save_tables(folder / 'epoch_1.pth', dataset, torch.tensor([0, 1]))
    assert own_scores(cfg, folder / 'epoch_1.pth', data_root=labelled) == {}
    assert 'None of the 15 images' in said[0]


@pytest.mark.parametrize(
    ('folders', 'splits'),
    [
        (['train', 'val'], True),
        (['train', 'val', 'test', 'meta'], True),
        (['train'], True),
        (['train', 'test'], True),
        (['train', 'boat', 'car'], False),  # vehicles
        (['ant', 'bee'], False),
    ],
)
def test_a_folder_is_divided_or_has_classes(tmp_path, folders, splits):
    for name in folders:
        (tmp_path / name).mkdir()
    (tmp_path / 'readme.txt').touch()
    assert has_splits(tmp_path) is splits


def test_data_sets_with_and_without_labels_do_not_go_together():
    with pytest.raises(ValueError, match='images for train have no labels'):
        check_all_lack_labels(['train'], ['train', 'val'])
    check_all_lack_labels(['train', 'val'], ['train', 'val'])


# ---- what is refused


def photos(folder, *classes):
    for name in classes:
        (folder / name).mkdir(parents=True)
        (folder / name / '0.jpg').touch()
    return CustomDataset(data_root=str(folder), pipeline=[])


def test_other_classes_in_training_and_validation_are_refused(tmp_path):
    """A missing folder would shift all labels behind it."""
    train = photos(tmp_path / 'train', 'ant', 'bee', 'cat')
    check_same_classes(train, photos(tmp_path / 'val', 'ant', 'bee', 'cat'))
    with pytest.raises(ValueError, match=r"3 and 2 classes.*\['bee'\]"):
        check_same_classes(train, photos(tmp_path / 'few', 'ant', 'cat'))


def test_errors_of_users_are_one_line(resnet, tmp_path):
    photos(tmp_path / 'shifted/train', 'ant', 'bee', 'cat')
    photos(tmp_path / 'shifted/val', 'ant', 'cat')
    shifted = ['--data-root', tmp_path / 'shifted']
    torch.save(resnet.state_dict(), tmp_path / 'resnet18.pth')
    for arguments, message in (
        (
            [THEIRS, tmp_path / 'resnet18.pth', '--data-root', tmp_path / 'x'],
            'There is no folder .*x',
        ),
        ([THEIRS, tmp_path / 'absent.pth'], r'absent\.pth'),
        ([THEIRS, tmp_path / 'resnet18.pth', *shifted], '3 and 2 classes'),
    ):
        with pytest.raises(SystemExit, match=f'error: .*{message}'):
            run('knn.py', *arguments, '--k', 1, '--out', tmp_path / 'out', *SMALL)


def test_kmeans_starts_from_samples_far_apart():
    """Ten groups: of any ten samples, all but one choice in 2,700 leave a group without a start."""
    torch.manual_seed(0)
    centers = 10 * torch.eye(10)
    x = (centers.repeat(30, 1) + torch.randn(300, 10)).float()
    found = spread_samples(x, 10, seed=1)
    assert sorted(torch.cdist(found, centers).argmin(1).tolist()) == list(range(10))
    assert torch.cdist(found, x).amin() < 0.1  # samples, not means
    with pytest.raises(ValueError, match='num_clusters=301 is more than the 300 samples'):
        spread_samples(x, 301)
