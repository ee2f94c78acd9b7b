"""Linear evaluation and fine-tuning on few labels: recipes, frozen backbones, checks, results."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.dataset import Compose, default_collate
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmpretrain.structures import DataSample
from PIL import Image
from test_distributed import dist_train
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy
from torchvision.models import resnet18

import mmcoke.engine  # noqa: F401 (hooks)
from mmcoke.datasets import Lighting
from mmcoke.datasets.label_list import write_label_list
from mmcoke.engine.hooks import LabelCheckHook
from mmcoke.engine.launch import build_runner, train
from mmcoke.evaluation import MultiHeadAccuracy
from mmcoke.models import FrozenClassifier, MultiLinearHead
from mmcoke.registry import DATASETS, MODELS, TRANSFORMS

CONFIGS = ROOT / 'configs/benchmarks/classification'
RECIPES = sorted(
    path.relative_to(CONFIGS).as_posix()
    for path in CONFIGS.rglob('*.py')
    if '_base_' not in path.parts
)
LINEAR = 'imagenet/resnet50_8xb128-coslr-90e_in1k.py'
MHEAD = 'imagenet/resnet50_mhead_8xb32-steplr-90e_in1k.py'
FEW = 'imagenet/imagenet_10percent/resnet50_4xb64-steplr-20e_in1k-10pct.py'


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmcoke')


def small(recipe, checkpoint=None, num_classes=10):
    """A recipe with ResNet-18."""
    cfg = Config.fromfile(CONFIGS / recipe)
    cfg.model.backbone.update(depth=18)
    cfg.model.backbone.init_cfg.checkpoint = checkpoint
    cfg.model.head.num_classes = num_classes
    return cfg


def build(cfg):
    return revert_sync_batchnorm(MODELS.build(cfg.model))


def some_samples(labels):
    return [DataSample().set_gt_label(label) for label in labels]


@pytest.fixture
def torchvision_file(tmp_path):
    """A state dict of torchvision's ResNet-18, whose BatchNorm has seen images."""
    torch.manual_seed(0)
    network = resnet18().train()
    network(torch.rand(8, 3, 64, 64))
    torch.save(network.state_dict(), tmp_path / 'resnet18.pth')
    return str(tmp_path / 'resnet18.pth')


# ---- recipes


@pytest.mark.parametrize('recipe', RECIPES)
def test_config_builds_and_takes_a_training_step(recipe):
    cfg = small(recipe)
    model = build(cfg)
    transforms = [
        TRANSFORMS.build(transform)
        for transform in cfg.train_dataloader.dataset.pipeline
        if transform.type != 'LoadImageFromFile'
    ]
    images = np.random.default_rng(0).integers(0, 255, (2, 256, 300, 3), dtype=np.uint8)
    records = [dict(img=image, gt_label=label) for label, image in enumerate(images)]
    batch = default_collate([Compose(transforms)(record) for record in records])
    batch['inputs'] = [x[:, 80:144, 80:144] for x in batch['inputs']]
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    before = {name: x.clone() for name, x in model.named_parameters()}
    model.train()
    log = model.train_step(batch, optimizer)
    assert torch.isfinite(log['loss'])
    changed = {
        name.split('.')[0] for name, x in model.named_parameters() if x.ne(before[name]).any()
    }
    assert changed == ({'backbone', 'head'} if 'percent' in recipe else {'head'})


def test_there_is_a_sobel_variant_of_every_recipe():
    plain = [recipe for recipe in RECIPES if 'sobel' not in recipe]
    assert len(plain) == 9
    for recipe in plain:
        sobel = recipe.replace('/resnet50_', '/resnet50-sobel_')
        cfg, variant = (Config.fromfile(CONFIGS / name) for name in (recipe, sobel))
        assert variant.model.backbone.type == 'ResNetSobel'
        variant.model.backbone.type = cfg.model.backbone.type
        assert variant.to_dict() == cfg.to_dict()


PUBLISHED = {
    # images per step, epochs, learning rate, weight decay, nesterov, milestones, classes
    'imagenet/resnet50_8xb32-steplr-100e_in1k.py': (256, 100, 30, 0, False, [60, 80], 1000),
    LINEAR: (1024, 90, 0.2, 1e-6, False, None, 1000),
    LINEAR.replace('90e', '90e-mcrop'): (1024, 90, 0.4, 1e-6, False, None, 1000),
    MHEAD: (256, 90, 0.01, 1e-4, True, [30, 60], 1000),
    'places205/resnet50_mhead_8xb32-steplr-28e_places205.py': (
        *(256, 28, 0.01, 1e-4, True, [7, 14, 21], 205),
    ),
    'places365/resnet50_mhead_8xb32-steplr-28e_places365.py': (
        *(256, 28, 0.01, 1e-4, True, [7, 14, 21], 365),
    ),
    'inaturalist2018/resnet50_mhead_8xb32-steplr-84e_inat18.py': (
        *(256, 84, 0.01, 1e-4, True, [24, 48, 72], 8142),
    ),
    FEW.replace('10p', '1p'): (256, 20, 0.01, 5e-4, False, [12, 16], 1000),
    FEW: (256, 20, 0.01, 1e-4, False, [12, 16], 1000),
}


@pytest.mark.parametrize(('recipe', 'published'), PUBLISHED.items())
def test_hyper_parameters_are_the_published_ones(recipe, published):
    cfg = Config.fromfile(CONFIGS / recipe)
    optimizer, (schedule,) = cfg.optim_wrapper.optimizer, cfg.param_scheduler
    gpus = 4 if 'percent' in recipe else 8
    batch = gpus * cfg.train_dataloader.batch_size
    assert published == (
        batch,
        cfg.train_cfg.max_epochs,
        optimizer.lr,
        optimizer.weight_decay,
        optimizer.get('nesterov', False),
        schedule.get('milestones'),
        cfg.model.head.num_classes,
    )
    assert (optimizer.type, optimizer.momentum) == ('SGD', 0.9)
    assert cfg.auto_scale_lr.base_batch_size == batch
    if published[5] is None:
        assert (schedule.type, schedule.T_max) == ('CosineAnnealingLR', cfg.train_cfg.max_epochs)
    else:
        assert schedule.gamma == (0.2 if 'percent' in recipe else 0.1)


def test_crops_are_the_published_ones():
    for recipe in RECIPES:
        cfg = Config.fromfile(CONFIGS / recipe)
        train_crop = [t.type for t in cfg.train_dataloader.dataset.pipeline[2:-2]]
        places = 'places' in recipe
        crop = ['Resize', 'CenterCrop', 'RandomCrop'] if places else ['RandomResizedCrop']
        colours = ['torchvision/ColorJitter', 'PILToNumpy'] if 'mhead' in recipe else []
        expected = [f'torchvision/{name}' for name in (*crop, 'RandomHorizontalFlip')]
        assert train_crop == expected + (colours if 'imagenet' in recipe else [])
        resize, center = cfg.val_dataloader.dataset.pipeline[2:4]
        assert (resize.size, center.size) == (256, 224)


def test_classifiers_of_resnet50_have_the_published_inputs():
    cfg = Config.fromfile(CONFIGS / MHEAD)
    cfg.model.head.num_classes = 3
    head = MODELS.build(cfg.model).head
    assert [fc.in_features for fc in head.fcs] == [9216, 9216, 8192, 9216, 8192]
    norms = [(norm.num_features, norm.affine, norm.momentum) for norm in head.norms]
    assert norms == [(width, False, 0.1) for width in (64, 256, 512, 1024, 2048)]
    head.init_weights()
    assert all(0.009 < fc.weight.std() < 0.011 and not fc.bias.any() for fc in head.fcs)


# ---- head and metric

WIDTHS = (2, 3, 4, 5, 6)


@pytest.fixture
def head_and_maps():
    torch.manual_seed(0)
    head = MultiLinearHead(4, WIDTHS, norm_cfg=dict(type='BN', affine=False))
    head.init_weights()
    maps = [
        torch.randn(3, width, side, side)
        for width, side in zip(WIDTHS, (24, 12, 8, 6, 2), strict=True)
    ]
    return head, maps


def test_each_stage_is_pooled_normalized_and_classified(head_and_maps):
    head, maps = head_and_maps
    logits = head.train()(maps)
    for x, side, fc, result in zip(maps, (12, 6, 4, 3, 2), head.fcs, logits, strict=True):
        pooled = adaptive_avg_pool2d(x, side)
        mean = pooled.mean((0, 2, 3), keepdim=True)
        var = pooled.var((0, 2, 3), correction=0, keepdim=True)
        expected = fc(((pooled - mean) / (var + 1e-5).sqrt()).flatten(1))
        torch.testing.assert_close(result, expected)


def test_the_classifiers_do_not_affect_each_other(head_and_maps):
    head, maps = head_and_maps
    label = torch.tensor([0, 3, 1])
    losses = head.train().loss(maps, some_samples(label))
    assert list(losses) == [f'loss_stage{stage}' for stage in range(5)]
    sum(losses.values()).backward()
    together = [fc.weight.grad.clone() for fc in head.fcs]
    for stage, grad in enumerate(together):
        head.zero_grad()
        cross_entropy(head(maps)[stage], label).backward()
        torch.testing.assert_close(head.fcs[stage].weight.grad, grad)


def test_accuracy_of_each_stage_and_of_the_best_by_hand():
    # 4 images, 2 stages, 3 classes: where the largest and the second largest scores are
    first = torch.tensor([[0, 1], [0, 1], [0, 2], [1, 0]])
    second = torch.tensor([[0, 1], [1, 0], [2, 0], [0, 1]])
    label = [0, 1, 2, 2]
    samples = []
    for i in range(4):
        scores = torch.zeros(2, 3)
        for stage, (best, next_best) in enumerate((first[i], second[i])):
            scores[stage, best], scores[stage, next_best] = 2, 1
        samples.append(dict(stage_logits=scores, gt_label=torch.tensor([label[i]])))
    metric = MultiHeadAccuracy(topk=(1, 2))
    metric.process({}, samples[:3])
    metric.process({}, samples[3:])
    assert metric.evaluate(4) == {
        'accuracy/stage0/top1': 25.0,
        'accuracy/stage0/top2': 75.0,
        'accuracy/stage1/top1': 75.0,
        'accuracy/stage1/top2': 75.0,
        'accuracy/best/stage': 1,
        'accuracy/best/top1': 75.0,
        'accuracy/best/top2': 75.0,
    }


def test_more_guesses_than_classes_are_refused():
    sample = dict(stage_logits=torch.zeros(2, 3), gt_label=torch.tensor([0]))
    with pytest.raises(ValueError, match='3 classes have no top-5 accuracy: set topk'):
        MultiHeadAccuracy().process({}, [sample])


# ---- backbones


def test_a_frozen_backbone_gets_no_gradient_and_keeps_its_statistics(torchvision_file):
    model = build(small(MHEAD, torchvision_file))
    model.init_weights()
    before = {name: x.clone() for name, x in model.backbone.state_dict().items()}
    loaded = torch.load(torchvision_file)
    assert all(x.equal(loaded[name]) for name, x in before.items())
    model.train()
    assert model.training and model.head.training
    assert not any(module.training for module in model.backbone.modules())
    optimizer = build_optim_wrapper(model, Config.fromfile(CONFIGS / MHEAD).optim_wrapper)
    for _ in range(3):
        images = [torch.randint(0, 255, (3, 64, 64)) for _ in range(4)]
        batch = dict(inputs=images, data_samples=some_samples([0, 1, 2, 3]))
        model.train_step(batch, optimizer)
    after = model.backbone.state_dict()
    assert all(x.equal(after[name]) for name, x in before.items())
    assert all(x.grad is None for x in model.backbone.parameters())
    assert all(norm.num_batches_tracked == 3 for norm in model.head.norms)


def test_a_fine_tuned_backbone_is_trained(torchvision_file):
    model = build(small(FEW, torchvision_file))
    model.init_weights()
    model.train()
    before = {name: x.clone() for name, x in model.named_parameters()}
    images = [torch.randint(0, 255, (3, 64, 64)) for _ in range(4)]
    batch = dict(inputs=images, data_samples=some_samples([0, 1, 2, 3]))
    model.train_step(batch, build_optim_wrapper(model, dict(optimizer=dict(type='SGD', lr=0.1))))
    assert all(x.ne(before[name]).any() for name, x in model.named_parameters())
    assert model.backbone.bn1.num_batches_tracked == 2  # one before the file was written


@pytest.mark.parametrize(
    'wrap',
    [
        lambda state: state,
        lambda state: dict(state_dict={f'backbone.{name}': x for name, x in state.items()}),
        lambda state: dict(state_dict={f'module.encoder.{name}': x for name, x in state.items()}),
    ],
    ids=['torchvision', 'OpenMMLab', 'CoKe'],
)
def test_checkpoints_of_all_layouts_are_loaded(wrap, torchvision_file, tmp_path, caplog):
    state = torch.load(torchvision_file)
    torch.save(wrap(state), tmp_path / 'wrapped.pth')
    model = build(small(LINEAR, str(tmp_path / 'wrapped.pth')))
    with caplog.at_level(logging.INFO):
        model.init_weights()
    assert all(x.equal(state[name]) for name, x in model.backbone.state_dict().items())


def test_no_initializer_touches_the_loaded_weights(torchvision_file):
    cfg = small(LINEAR, torchvision_file)
    # With another type, mmpretrain's ResNet would set the last norms of its blocks to 0 afterwards.
    cfg.model.backbone.update(zero_init_residual=True)
    cfg.model.backbone.init_cfg.type = 'StrictPretrained'
    model = build(cfg)
    model.init_weights()
    state = torch.load(torchvision_file)
    assert all(x.equal(state[name]) for name, x in model.backbone.state_dict().items())


def test_a_run_without_checkpoint_is_refused():
    with pytest.raises(ValueError, match=r'random weights.*init_cfg.checkpoint='):
        build(small(LINEAR)).init_weights()


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (lambda state: {f'{name}_': x for name, x in state.items()}, 'Only 0 of 100 backbone'),
        (
            lambda state: {name: x for name, x in state.items() if 'layer4' not in name},
            'Only 75 of 100 backbone keys matched.*layer4',
        ),
    ],
    ids=['other names', 'a stage is missing'],
)
def test_random_weights_are_refused(spoil, message, torchvision_file, tmp_path):
    torch.save(spoil(torch.load(torchvision_file)), tmp_path / 'spoilt.pth')
    with pytest.raises(ValueError, match=message):
        build(small(LINEAR, str(tmp_path / 'spoilt.pth'))).init_weights()


def test_the_head_of_another_backbone_follows_its_width():
    cfg = small(LINEAR)
    cfg.model.backbone = dict(type='PlainConvNet', in_channels=3, channels=[8, 24])
    model = MODELS.build(cfg.model)
    assert isinstance(model, FrozenClassifier)
    assert model.head.fc.in_features == 24


# ---- data


class Loaders:
    """What LabelCheckHook sees of a runner."""

    def __init__(self, train, val, num_classes):
        self.train_dataloader = type('Loader', (), dict(dataset=train))
        self.val_dataloader = type('Loader', (), dict(dataset=val))
        self.val_loop = self
        self.model = torch.nn.Module()
        self.model.head = torch.nn.Module()
        self.model.head.num_classes = num_classes


class Labelled:
    def __init__(self, classes=None, labels=()):
        self.CLASSES, self.labels = classes, np.array(labels)

    def get_gt_labels(self):
        return self.labels


CLASSES = ('ant', 'bee', 'cat')


def test_data_that_fit_are_accepted():
    check = LabelCheckHook().before_train
    check(Loaders(Labelled(CLASSES), Labelled(CLASSES), 3))
    check(Loaders(Labelled(labels=[0, 2, 1]), Labelled(CLASSES), 3))
    check(Loaders(Labelled(labels=[0, 2, 1]), Labelled(labels=[1, 0]), 3))


@pytest.mark.parametrize(
    ('train', 'val', 'num_classes', 'message'),
    [
        (CLASSES, ('ant', 'cat'), 3, r'validation set lacks bee \(1\)'),
        (CLASSES, ('ant', 'bee', 'dog'), 3, r'validation set lacks cat.*training set lacks dog'),
        (CLASSES, ('bee', 'ant', 'cat'), 3, 'another order'),
        (CLASSES, CLASSES, 4, 'training set has 3 classes.*head.num_classes=3'),
        (CLASSES, CLASSES, 2, 'training set has 3 classes'),
    ],
)
def test_classes_that_differ_are_refused(train, val, num_classes, message):
    with pytest.raises(ValueError, match=message):
        LabelCheckHook().before_train(Loaders(Labelled(train), Labelled(val), num_classes))


def test_labels_beyond_the_head_are_refused():
    sets = Labelled(labels=[0, 1]), Labelled(labels=[0, 3])
    with pytest.raises(ValueError, match='validation set has 4 classes, but the head 3'):
        LabelCheckHook().before_train(Loaders(*sets, 3))


def test_lighting_adds_one_colour_to_all_pixels_without_wrapping():
    (transform,) = [
        t for t in Config.fromfile(CONFIGS / MHEAD).train_pipeline if t.type == 'Lighting'
    ]
    lighting = TRANSFORMS.build(transform)
    assert isinstance(lighting, Lighting)
    image = np.array([[[0, 0, 0], [255, 255, 255], [9, 99, 199]]], dtype=np.uint8)
    np.random.seed(0)
    result = lighting(dict(img=image))['img']
    np.random.seed(0)
    alpha = np.random.normal(0, 0.1, 3)
    vectors, values = np.array(transform.eigvec), np.array(transform.eigval)
    noise = vectors @ (alpha * values)
    np.testing.assert_allclose(result, image + noise, atol=1e-4)
    assert result.min() < 0  # as 8-bit numbers, black would come out white
    # The vectors are orthonormal, and the first is close to grey, in any order of the channels.
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=1e-3)
    # The image is R, G, B here: blue varies most along the first vector of ImageNet's colours.
    assert abs(vectors[2, 0]) == abs(vectors[:, 0]).max()


@pytest.fixture
def labelled_folder(tmp_path):
    """Two classes with 20 and 3 images."""
    for name, number in (('n1', 20), ('n2', 3)):
        (tmp_path / 'train' / name).mkdir(parents=True)
        for i in range(number):
            Image.new('RGB', (4, 4)).save(tmp_path / f'train/{name}/{name}_{i}.JPEG')
    return tmp_path


def test_label_list_draws_a_share_of_each_class(labelled_folder):
    path, size = write_label_list(labelled_folder, 10)
    assert path == labelled_folder / 'meta/train_10percent.txt'
    lines = [line.split() for line in path.read_text().splitlines()]
    assert size == len(lines) == 3
    assert [label for _, label in lines] == ['0', '0', '1']  # 10 % of 3 is at least one
    assert all((labelled_folder / 'train' / name).is_file() for name, _ in lines)
    first = path.read_text()
    assert write_label_list(labelled_folder, 10)[0].read_text() == first
    assert write_label_list(labelled_folder, 10, seed=1)[0].read_text() != first


def test_label_list_takes_named_images(labelled_folder):
    names = labelled_folder / 'names.txt'
    names.write_text('n2_0.JPEG\nn1_7.JPEG\n')
    path, _ = write_label_list(labelled_folder, 1, names=names)
    assert path.read_text() == 'n2/n2_0.JPEG 1\nn1/n1_7.JPEG 0\n'
    names.write_text('n2_0.JPEG\nn1_77.JPEG\n')
    with pytest.raises(ValueError, match=r'1 of 2 images .* are not there, such as n1_77.JPEG'):
        write_label_list(labelled_folder, 1, names=names)
    with pytest.raises(ValueError, match='percent must be'):
        write_label_list(labelled_folder, 0)


# ---- from the command to the table


def on_photos(recipe, checkpoint, folder, work_dir, *, size=64, step=1):
    """A recipe for three epochs on every ``step``-th photo of Caltech-10, at 64 pixels."""
    cfg = small(recipe, checkpoint)
    cfg.work_dir = str(work_dir)
    cfg.train_cfg.update(max_epochs=3, val_interval=2)
    for loader, number in ((cfg.train_dataloader, 500), (cfg.val_dataloader, 300)):
        loader.update(num_workers=0, persistent_workers=False, batch_size=50)
        loader.dataset.update(data_root=str(folder), indices=list(range(0, number, step)))
        for transform in loader.dataset.pipeline:
            if 'size' in transform:
                transform.size = transform.size * size // 224
    return cfg


def rows_of(work_dir, recipe):
    record = json.loads((work_dir / Path(recipe).with_suffix('.json').name).read_text())
    assert (work_dir / Path(recipe).with_suffix('.md').name).is_file()
    return record, record['rows']


def test_stages_of_a_torchvision_network_on_photos(shared_data, torchvision_file, tmp_path):
    work_dir = tmp_path / 'stages'
    cfg = on_photos(MHEAD, torchvision_file, shared_data / 'caltech10', work_dir, step=4)
    model = train(cfg)
    loaded = torch.load(torchvision_file)
    assert all(x.equal(loaded[name]) for name, x in model.backbone.state_dict().items())
    record, rows = rows_of(work_dir, MHEAD)
    assert [row['head'] for row in rows] == [f'stage{stage}' for stage in range(5)] + ['best']
    best = max(rows[:5], key=lambda row: row['top1'])
    assert rows[5]['top1'] == best['top1'] > 35  # chance is 10
    assert best['head'] == f'stage{rows[5]["stage"]}'
    assert all(row['top1'] <= row['top5'] for row in rows)
    # 75 images, each counted once
    hits = [row['top1'] * 0.75 for row in rows]
    assert hits == pytest.approx([round(x) for x in hits])
    setup = {key: rows[0][key] for key in ('epochs', 'batch', 'learning_rate', 'num_val')}
    assert setup == dict(epochs=3, batch=50, learning_rate='0.01', num_val=75)
    assert record['checkpoint']['name'] == 'resnet18.pth'


@pytest.fixture
def own_checkpoint(tmp_path):
    """A checkpoint of CoKe with ResNet-18, as its training saves it."""
    cfg = Config.fromfile(ROOT / 'configs/selfsup/coke/coke_r50_8xb64_in1k.py')
    cfg.model.backbone.depth = 18
    cfg.model.clustering.num_clusters = [3]
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    model.init_weights()
    model.init_labelers(10)
    torch.save(dict(meta={}, state_dict=model.state_dict()), tmp_path / 'epoch_1.pth')
    return str(tmp_path / 'epoch_1.pth')


def test_linear_evaluation_of_our_own_checkpoint_on_photos(shared_data, own_checkpoint, tmp_path):
    folder = shared_data / 'caltech10'
    cfg = on_photos(LINEAR, own_checkpoint, folder, tmp_path / 'linear', size=32, step=5)
    model = train(cfg)
    state = torch.load(own_checkpoint)['state_dict']
    assert all(x.equal(state[f'backbone.{n}']) for n, x in model.backbone.state_dict().items())
    _, (row,) = rows_of(tmp_path / 'linear', LINEAR)
    assert row['learning_rate'] == '0.2'
    assert 0 <= row['top1'] <= row['top5'] <= 100


def test_a_work_dir_that_holds_the_checkpoint_is_refused(shared_data, own_checkpoint, tmp_path):
    """Under whatever name; one of a training that is there would be refused before."""
    weights = Path(own_checkpoint).rename(tmp_path / 'weights.pth')
    cfg = on_photos(LINEAR, str(weights), shared_data / 'caltech10', tmp_path, step=50)
    with pytest.raises(ValueError, match=r'weights.pth lies in the folder .* --work-dir'):
        train(cfg)
    assert weights.is_file()


def test_few_labels_from_a_list_on_photos(shared_data, torchvision_file, tmp_path):
    folder = tmp_path / 'data'
    folder.mkdir()
    for part in ('train', 'val'):
        (folder / part).symlink_to(shared_data / 'caltech10' / part)
    _, size = write_label_list(folder, 10)
    cfg = on_photos(FEW, torchvision_file, folder, tmp_path / 'few', size=32, step=5)
    cfg.train_dataloader.dataset.pop('indices')
    cfg.optim_wrapper.paramwise_cfg.custom_keys.head.lr_mult = 10.0
    runner = build_runner(cfg)
    assert len(runner.build_dataloader(cfg.train_dataloader).dataset) == size == 50
    runner.train()
    _, (row,) = rows_of(tmp_path / 'few', FEW)
    assert row['learning_rate'] == '0.01, 0.1'


@pytest.mark.slow
def test_one_command_trains_and_tests_by_two_processes(shared_data, torchvision_file, tmp_path):
    folder = shared_data / 'caltech10'
    options = {
        'model.backbone.init_cfg.checkpoint': torchvision_file,
        'model.backbone.depth': 18,
        'model.head.num_classes': 10,
        'train_cfg.max_epochs': 1,
        'train_dataloader.dataset.pipeline.2.size': 32,
        'val_dataloader.dataset.pipeline.3.size': 32,
        'train_dataloader.dataset.indices': 64,
        'val_dataloader.dataset.indices': 59,  # odd: one process gets an image twice
    }
    for loader in ('train_dataloader', 'val_dataloader'):
        options |= {
            f'{loader}.dataset.data_root': folder,
            f'{loader}.num_workers': 0,
            f'{loader}.persistent_workers': False,
            f'{loader}.batch_size': 16,
        }
    settings = [f'{key}={value}' for key, value in options.items()]
    work_dir = tmp_path / 'linear'
    result = dist_train(
        *(CONFIGS / LINEAR, 2, '--work-dir', str(work_dir), '--cfg-options', *settings)
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert '100 of 100 backbone keys matched' in result.stdout + result.stderr
    _, (row,) = rows_of(work_dir, LINEAR)
    assert row['batch'] == 32

    cfg = Config.fromfile(work_dir / Path(LINEAR).name)
    model = MODELS.build(cfg.model)
    model.load_state_dict(torch.load(work_dir / 'epoch_1.pth', weights_only=False)['state_dict'])
    model.eval()
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    predicted = model.val_step(default_collate([dataset[i] for i in range(59)]))
    hits = sum(bool(sample.pred_label == sample.gt_label) for sample in predicted)
    assert row['top1'] == pytest.approx(100 * hits / 59)
