"""Which images a data set has: labels stay with their image when others come and go."""

import numpy as np
import pytest
import torch
from conftest import tiny
from mmengine.dataset import ClassBalancedDataset, RepeatDataset
from mmengine.dataset import ConcatDataset as MMEngineConcatDataset
from mmengine.registry import init_default_scope
from mmpretrain.datasets import KFoldDataset
from torch.utils.data import Subset

from mmcoke.datasets import ConcatDataset, CustomDataset, InMemoryImages
from mmcoke.datasets.identity import KEYS, rows_of_before, sample_keys
from mmcoke.datasets.wrappers import sample_rows, without_repetition
from mmcoke.engine.hooks.labeler_hook import check_place
from mmcoke.engine.launch import train
from mmcoke.engine.loops import EpochLoop
from mmcoke.evaluation.clusterings import own_scores

PACK = [dict(type='Resize', scale=(16, 16)), dict(type='PackInputs')]


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmcoke')


def listed(folder, *names, **options):
    """A data set of a list of names; the files need not exist."""
    ann_file = folder.parent / f'{folder.name}.txt'
    folder.mkdir(exist_ok=True, parents=True)
    ann_file.write_text(''.join(f'{name} {i % 3}\n' for i, name in enumerate(names)))
    options = dict(data_prefix=str(folder), ann_file=str(ann_file), pipeline=[]) | options
    return CustomDataset(**options)


def arrays(path, images, **options):
    np.savez(path, x=images, y=np.arange(len(images)) % 3)
    return InMemoryImages(str(path), **dict(pipeline=PACK) | options)


def noise(num, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (num, 8, 8), dtype=np.uint8)


# ---- keys


def test_images_are_the_same_wherever_their_folder_lies(tmp_path, monkeypatch):
    names = ['cat/1.jpg', 'cat/2.jpg', 'dög/1.jpg']
    here = sample_keys(listed(tmp_path / 'here/photos', *names))
    assert sample_keys(listed(tmp_path / 'there/images', *names)).tolist() == here.tolist()
    monkeypatch.chdir(tmp_path / 'here')
    relative = listed(tmp_path / 'here/photos', *names, data_prefix='photos')
    assert sample_keys(relative).tolist() == here.tolist()
    assert len(set(here)) == 3


def test_a_key_follows_its_name_not_its_place_or_label(tmp_path):
    before = sample_keys(listed(tmp_path / 'a', 'x.jpg', 'y.jpg', 'z.jpg'))
    after = sample_keys(listed(tmp_path / 'a', 'z.jpg', 'new.jpg', 'x.jpg'))
    assert rows_of_before(after, before).tolist() == [2, -1, 0]


def test_equal_names_in_two_folders_are_different_images(tmp_path):
    one, two = (listed(tmp_path / name, '1.jpg', '2.jpg') for name in 'ab')
    before, after = sample_keys(ConcatDataset([one, two])), sample_keys(ConcatDataset([two, one]))
    assert rows_of_before(after, before).tolist() == [2, 3, 0, 1]


def test_an_image_that_is_listed_twice_keeps_both_labels_apart(tmp_path):
    before = sample_keys(listed(tmp_path / 'a', 'x.jpg', 'x.jpg', 'y.jpg'))
    after = sample_keys(listed(tmp_path / 'a', 'y.jpg', 'x.jpg', 'x.jpg'))
    assert rows_of_before(after, before).tolist() == [2, 0, 1]


def test_arrays_are_known_by_their_bytes(tmp_path):
    images = noise(5)
    before = sample_keys(arrays(tmp_path / 'a.npz', images))
    images[3, 0, 0] ^= 1
    after = sample_keys(arrays(tmp_path / 'b.npz', images[[4, 3, 0]]))
    assert rows_of_before(after, before).tolist() == [4, -1, 0]


def test_samples_in_one_file_are_known_by_the_rest_of_their_record(tmp_path):
    class Shard(CustomDataset):
        def load_data_list(self):
            return [dict(img_path=str(tmp_path / 'a.tar'), offset=i) for i in self.rows]

    Shard.rows = [0, 1, 2, 3]
    before = sample_keys(Shard(data_prefix=str(tmp_path), pipeline=[]))
    Shard.rows = [3, 1, 7]
    after = sample_keys(Shard(data_prefix=str(tmp_path), pipeline=[]))
    assert rows_of_before(after, before).tolist() == [3, 1, -1]


# ---- one sample_idx per image


def wrappers(folder):
    a, b = arrays(folder / 'a.npz', noise(7)), arrays(folder / 'b.npz', noise(5, seed=1))
    balanced = ClassBalancedDataset(a, 0.9)
    balanced.repeat_indices = [0, 1, 1, 2, 3, 3, 3, 4, 5, 6]
    fold = KFoldDataset(dict(type='InMemoryImages', source=str(folder / 'a.npz'), pipeline=PACK))
    both = ConcatDataset([a, b])
    return {
        'plain': a,
        'part': arrays(folder / 'c.npz', noise(7), indices=[5, 2, 3]),
        'concatenated': both,
        'repeated': RepeatDataset(a, 3),
        'balanced': balanced,
        'fold': fold,
        'repeated parts': concat(RepeatDataset(a, 2), balanced, b),
        'nested': repeat(concat(repeat(both, 2), a), 2),
    }


def concat(*parts):
    """A concatenation of wrappers, which mmengine takes as configs only."""
    whole = ConcatDataset([arrays_like(part) for part in parts])
    whole.datasets = list(parts)
    whole._fully_initialized = False
    whole.full_init()
    return whole


def arrays_like(part):
    while hasattr(part, 'dataset') or hasattr(part, 'datasets'):
        part = part.dataset if hasattr(part, 'dataset') else part.datasets[0]
    return part


def repeat(dataset, times):
    whole = RepeatDataset(arrays_like(dataset), times)
    whole.dataset, whole._ori_len = dataset, len(dataset)
    return whole


def test_rows_are_what_the_samples_carry_through_all_wrappers(tmp_path):
    for name, dataset in wrappers(tmp_path).items():
        rows = sample_rows(dataset)
        given = [dataset[i]['data_samples'].sample_idx for i in range(len(dataset))]
        assert rows.tolist() == given, name
        assert [dataset.get_data_info(i)['sample_idx'] for i in range(len(dataset))] == given, name


def test_each_row_is_one_image_and_each_image_one_row(tmp_path):
    for name, dataset in wrappers(tmp_path).items():
        once, rows = without_repetition(dataset), sample_rows(dataset)
        assert sorted(set(rows.tolist())) == list(range(len(once))), name
        assert len(sample_keys(dataset)) == len(once), name
        for i, row in enumerate(rows):
            assert torch.equal(dataset[i]['inputs'], once[int(row)]['inputs']), (name, i)
            assert once[int(row)]['data_samples'].sample_idx == row, (name, i)


def test_wrappers_that_share_indices_are_refused(tmp_path):
    a, b = arrays(tmp_path / 'a.npz', noise(7)), arrays(tmp_path / 'b.npz', noise(5))
    with pytest.raises(ValueError, match=r'mmcoke\.ConcatDataset'):
        sample_rows(repeat(MMEngineConcatDataset([a, b]), 2))
    with pytest.raises(ValueError, match=r'Subset does not give .* indices'):
        sample_rows(Subset(a, [3, 1]))


def config(method, folder, work_dir, images=None):
    """The tiny recipe of a method on an array of images."""
    cfg = tiny(method, work_dir)
    changes = {
        'train_dataloader.batch_size': 32,
        'train_cfg.max_epochs': 2,
        'log_level': 'ERROR',
        'default_hooks.checkpoint.max_keep_ckpts': -1,
    }
    if method == 'odc':
        changes['model.clustering.min_size'] = 3
    cfg.merge_from_dict(changes)
    if images is not None:
        path = folder / f'{len(list(folder.glob("*.npz")))}.npz'
        np.savez(path, x=images, y=np.arange(len(images)) % 3)
        cfg.train_dataloader.dataset = dict(
            type='InMemoryImages', source=str(path), pipeline=cfg.pipeline
        )
    return cfg


REFUSED = {
    'repeated': ('coke', r'RepeatDataset gives .*max_epochs', dict(type='RepeatDataset', times=2)),
    'balanced': (
        'deepcluster',
        'ClusterUniformSampler draws .* ClassBalancedDataset repeats',
        dict(type='ClassBalancedDataset', oversample_thr=0.9),
    ),
    'mmengine': ('odc', r'mmcoke\.ConcatDataset', dict(type='mmengine.ConcatDataset')),
}


@pytest.mark.parametrize(('method', 'message', 'wrapper'), REFUSED.values(), ids=REFUSED)
def test_wrappers_that_mix_labels_up_are_refused_before_training(
    tmp_path, method, message, wrapper
):
    cfg = config(method, tmp_path, tmp_path / 'run', noise(64))
    inner = cfg.train_dataloader.dataset
    several = 'Concat' in wrapper['type']
    cfg.train_dataloader.dataset = dict(
        wrapper, **dict(datasets=[inner, inner]) if several else dict(dataset=inner)
    )
    if 'Balanced' in wrapper['type']:
        cfg.train_dataloader.dataset['dataset']['source'] = skewed(tmp_path)
    with pytest.raises(ValueError, match=message):
        train(cfg)


def skewed(folder, images=None):
    """60 images of class 0 and 4 of class 1."""
    path = folder / 'skewed.npz'
    np.savez(path, x=noise(64) if images is None else images, y=[0] * 60 + [1] * 4)
    return str(path)


@pytest.mark.parametrize(
    ('method', 'sampler', 'message'),
    [
        ('coke', dict(type='RepeatAugSampler'), 'RepeatAugSampler draws images more than once'),
        ('coke', dict(type='ReplacementSampler'), 'ReplacementSampler draws images more than once'),
        ('coke', dict(type='InfiniteSampler'), 'InfiniteSampler never ends'),
        ('odc', dict(type='InfiniteSampler'), 'InfiniteSampler never ends'),
    ],
)
def test_samplers_that_draw_an_image_twice_are_refused_by_name(tmp_path, method, sampler, message):
    cfg = config(method, tmp_path, tmp_path / 'run', noise(64))
    cfg.train_dataloader.sampler = sampler
    with pytest.raises(ValueError, match=message):
        train(cfg)


@pytest.mark.parametrize('method', ['deepcluster', 'odc'])
def test_repeated_images_train_on_the_cluster_of_their_own_features(tmp_path, method):
    """Of 64 images only 8 differ: equal ones have equal features, so one cluster."""
    images = noise(8)[np.arange(64) % 8]
    cfg = config(method, tmp_path, tmp_path / 'run', images)
    cfg.merge_from_dict({'model.clustering.num_clusters': 4, 'train_cfg.max_epochs': 1})
    options = dict(odc=dict(min_size=1, momentum=1e-6), deepcluster=dict(pca_dim=None))
    cfg.model.clustering.update(options[method])
    inner = dict(cfg.train_dataloader.dataset, source=skewed(tmp_path, images))
    cfg.train_dataloader.dataset = dict(
        type='ClassBalancedDataset', oversample_thr=0.9, dataset=inner
    )
    cfg.train_dataloader.sampler = dict(type='TruncatedSampler')
    (labeler,) = train(cfg).labelers
    if method == 'odc':  # labels follow the sums of clusters, the memory hardly moves
        x = labeler.memory.x.reshape(8, 8, -1)
        assert (x - x[0]).abs().max() < 1e-5
        assert torch.pdist(x[0]).median() > 1e-4
        return
    label = labeler.labels.label.reshape(8, 8)
    assert (label >= 0).all()
    assert (label == label[0]).all()
    assert label[0].unique().numel() == 4


# ---- labels carried over


def tables(model):
    return [getattr(x.labels, 'newest', x.labels).label.clone() for x in model.labelers]


def memory_of(model):
    labelers = model.labelers
    return (labelers if hasattr(labelers, 'memory') else labelers[0]).memory.x


@pytest.mark.parametrize(
    'method', ['coke', 'stage 2', 'deepcluster', 'deepclusterv2', 'odc', 'secu', 'sela', 'swav']
)
def test_labels_go_with_their_images_when_others_come_and_go(tmp_path, method):
    change = {'model.clustering.average_from_epoch': 1} if method == 'stage 2' else {}
    method = 'coke' if change else method
    images = noise(160)
    work_dir = tmp_path / 'run'
    cfg = config(method, tmp_path, work_dir, images[:150])
    cfg.merge_from_dict(change)
    before = train(cfg)

    now = np.r_[155:160, 140:3:-1]  # the first four and the last nine are gone, five are new
    cfg = config(method, tmp_path, work_dir, images[now])
    cfg.merge_from_dict(change | {'resume': True})
    carried = train(cfg)  # all epochs are done: the model as it was saved
    for old, new in zip(tables(before), tables(carried), strict=True):
        assert new[:5].tolist() == [-1] * 5
        assert torch.equal(new[5:], old[now[5:]])
    if change:
        old, new = before.labelers[0].labels, carried.labelers[0].labels
        assert torch.equal(new.weight[5:], old.weight[now[5:]])
        assert torch.equal(new.older[5:], old.older[now[5:]])
        assert not new.weight[:5].any()
    if method in ('deepclusterv2', 'odc'):
        old, new = memory_of(before), memory_of(carried)
        assert torch.equal(new[5:], old[now[5:]])
        assert not new[:5].any()

    cfg.merge_from_dict({'resume': True, 'train_cfg.max_epochs': 3})
    cfg.load_from = None
    model = train(cfg)
    assert [len(label) for label in tables(model)] == [len(now)] * len(model.labelers)
    if method in ('deepcluster', 'odc'):
        assert model.labelers[0].size.tolist() == model.labelers[0].labels.sizes().tolist()
    state = torch.load(work_dir / 'epoch_3.pth', weights_only=True)
    assert len(state[KEYS]) == len(now)


@pytest.mark.parametrize('method', ['deepcluster', 'odc'])
def test_removed_images_leave_sizes_and_sums(tmp_path, method):
    """What a broken file's removal needs: the state is that of the images that are left."""
    images = noise(150)
    train(config(method, tmp_path, tmp_path / 'run', images))
    cfg = config(method, tmp_path, tmp_path / 'run', np.delete(images, [0, 77], axis=0))
    cfg.merge_from_dict({'resume': True, 'train_cfg.max_epochs': 3})
    if method == 'deepcluster':
        cfg.custom_hooks[0].interval = 5  # no clustering meanwhile
    (labeler,) = train(cfg).labelers
    assert labeler.size.tolist() == labeler.labels.sizes().tolist()
    assert labeler.size.sum() == 148
    if method == 'odc':
        total = labeler.total.clone()
        labeler.recompute()
        assert torch.equal(labeler.total, total)


def test_a_checkpoint_of_other_images_is_refused_though_their_number_is_the_same(tmp_path):
    train(config('coke', tmp_path, tmp_path / 'run', noise(100)))
    cfg = config('coke', tmp_path, tmp_path / 'run', noise(100, seed=1))
    cfg.resume = True
    with pytest.raises(ValueError, match=r'of its 100 images 0 are among the 100.*init_cfg'):
        train(cfg)


def test_the_remedy_for_other_images_starts_from_the_backbone(tmp_path):
    first = train(config('coke', tmp_path, tmp_path / 'run', noise(100)))
    cfg = config('coke', tmp_path, tmp_path / 'new', noise(100, seed=1))
    path = str(tmp_path / 'run/epoch_2.pth')
    cfg.merge_from_dict(
        {
            'model.backbone.init_cfg.type': 'Pretrained',
            'model.backbone.init_cfg.checkpoint': path,
            'model.backbone.init_cfg.prefix': 'backbone.',
            'train_cfg.max_epochs': 1,  # the learning rate is 0 in the first epoch
        }
    )
    second = train(cfg)
    for one, two in zip(first.backbone.parameters(), second.backbone.parameters(), strict=True):
        assert torch.equal(one, two)


def test_old_checkpoints_go_on_with_a_warning(tmp_path, monkeypatch):
    cfg = config('coke', tmp_path, tmp_path / 'run', noise(100))
    train(cfg)
    path = tmp_path / 'run/epoch_2.pth'
    state = torch.load(path, weights_only=True)
    state.pop(KEYS)
    torch.save(state, path)
    said = []
    monkeypatch.setattr(
        'mmcoke.datasets.identity.print_log', lambda message, **_: said.append(message)
    )
    cfg.merge_from_dict({'resume': True, 'load_from': None, 'train_cfg.max_epochs': 3})
    train(cfg)
    assert len(said) == 1 and 'epoch_2.pth does not say which images' in said[0]


def test_labels_are_compared_with_the_classes_of_their_own_images(tmp_path, monkeypatch):
    """By name: in another order, and with some missing, the scores are those of the images."""
    images = noise(100)
    cfg = config('coke', tmp_path, tmp_path / 'run', images)
    model = train(cfg)
    label, classes = tables(model)[0].numpy(), np.arange(100) % 3
    now = np.r_[90:10:-1]
    np.savez(tmp_path / 'now.npz', x=images[now], y=classes[now])
    cfg.train_dataloader.dataset.source = str(tmp_path / 'now.npz')
    seen = []
    monkeypatch.setattr(
        'mmcoke.evaluation.clusterings.clustering_scores',
        lambda label, classes: seen.append((label, classes)) or {},
    )
    own_scores(cfg, tmp_path / 'run/epoch_2.pth')
    kept = label[now] >= 0
    assert seen[0][0].tolist() == label[now][kept].tolist()
    assert seen[0][1].tolist() == classes[now][kept].tolist()

    np.savez(tmp_path / 'other.npz', x=noise(100, seed=1), y=classes)
    cfg.train_dataloader.dataset.source = str(tmp_path / 'other.npz')
    said = []
    monkeypatch.setattr(
        'mmcoke.evaluation.clusterings.print_log', lambda message, **_: said.append(message)
    )
    assert own_scores(cfg, tmp_path / 'run/epoch_2.pth') == {}
    assert 'only 0 of them are among the 100 training images' in said[0]


def test_within_an_epoch_other_images_are_refused_with_the_remedy():
    """Their order is another, so nobody knows what is left of the epoch."""
    loop = EpochLoop.__new__(EpochLoop)
    within, at_the_end = dict(place=dict(done=3)), dict(place=dict(done=0))
    with pytest.raises(ValueError, match=r'other images since.*--resume \.\.\./epoch_N\.pth'):
        check_place(loop, within, images_changed=True)
    check_place(loop, within, images_changed=False)
    check_place(loop, at_the_end, images_changed=True)
