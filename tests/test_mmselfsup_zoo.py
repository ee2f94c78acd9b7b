"""Checkpoints of mmselfsup's DeepCluster and ODC load; where we differ on purpose is pinned."""

import math

import numpy as np
import pytest
import torch
from conftest import CONFIGS
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.hub import get_config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope
from PIL import Image
from torch.utils.data import DataLoader

from mmcoke.engine.launch import train
from mmcoke.models import ResNetSobel
from mmcoke.registry import MODELS

pytest.importorskip('mmselfsup')

THEIRS = {
    'odc': 'mmselfsup::selfsup/odc/odc_resnet50_8xb64-steplr-440e_in1k.py',
    'deepcluster-sobel': (
        'mmselfsup::selfsup/deepcluster/deepcluster-sobel_resnet50_8xb64-steplr-200e_in1k.py'
    ),
}
OURS = {
    'odc': CONFIGS / 'odc/odc_r50_8xb64_in1k.py',
    'deepcluster-sobel': CONFIGS / 'deepcluster/deepcluster-sobel_r50_8xb64_in1k.py',
}
SLIM = {'model.backbone.stem_channels': 8, 'model.backbone.base_channels': 8}
METHODS = list(OURS)


def theirs(method, depth=50):
    """mmselfsup's algorithm for its own recipe, with weights that are all different."""
    from mmselfsup.registry import MODELS as THEIR_MODELS

    cfg = get_config(THEIRS[method])
    cfg.merge_from_dict(SLIM | {'model.head.num_classes': 3, 'model.backbone.depth': depth})
    if method == 'odc':
        cfg.model.memory_bank.update(length=20, num_classes=3)
        cfg.model.neck.in_channels = 256 if depth == 50 else 64
    else:
        cfg.model.head.in_channels = 256 if depth == 50 else 64
    with DefaultScope.overwrite_default_scope('mmselfsup'):
        model = THEIR_MODELS.build(cfg.model)
        model.init_weights()
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.add_(torch.rand(value.shape) / 50)
    return revert_sync_batchnorm(model).eval()


def ours(method, depth=50, **options):
    cfg = Config.fromfile(OURS[method])
    cfg.merge_from_dict(SLIM | {'model.backbone.depth': depth} | options)
    cfg.model.clustering.update(dict(min_size=2) if method == 'odc' else dict(pca_dim=4))
    cfg.model.clustering.num_clusters = 3
    return cfg


def build(cfg):
    with DefaultScope.overwrite_default_scope('mmcoke'):
        return revert_sync_batchnorm(MODELS.build(cfg.model)).eval()


@pytest.mark.parametrize('method', METHODS)
def test_all_weights_of_their_checkpoint_find_their_place(method):
    their, our = theirs(method), build(ours(method))
    state = their.state_dict()
    result = our.load_state_dict(state, strict=False)
    assert not result.missing_keys
    # The memory is not in their checkpoints, only its centroids; weights of clusters follow sizes.
    extra = {'loss_weight'} | ({'memory_bank.centroids'} if method == 'odc' else set())
    assert set(result.unexpected_keys) == extra
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(their.backbone(images), our.backbone(images), strict=True):
            torch.testing.assert_close(a, b)
        expected = their.neck(their.backbone(images))[-1].flatten(1)
        torch.testing.assert_close(our.project(images), expected)
        torch.testing.assert_close(our.head(expected), their.head.fc_cls(expected))


@pytest.mark.parametrize('method', METHODS)
def test_their_backbone_loads_as_pretrained_weights(method, tmp_path):
    their = theirs(method)
    path = str(tmp_path / 'zoo.pth')
    torch.save(dict(state_dict=their.state_dict(), meta=dict(epoch=440)), path)
    cfg = ours(method)
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=path, prefix='backbone.')
    our = build(cfg)
    our.init_weights()
    expected = their.backbone.state_dict()
    found = our.backbone.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_a_sobel_filter_kept_elsewhere_is_not_missed():
    """OpenSelfSup had it in the algorithm, not in the backbone."""
    state = {k: v for k, v in theirs('deepcluster-sobel').state_dict().items() if 'sobel' not in k}
    our = build(ours('deepcluster-sobel'))
    before = our.backbone.sobel_layer.sobel[1].weight.clone()
    result = our.load_state_dict(state, strict=False)
    assert not result.missing_keys
    assert torch.equal(our.backbone.sobel_layer.sobel[1].weight, before)


@pytest.mark.parametrize('method', METHODS)
def test_training_goes_on_from_their_checkpoint(method, tmp_path, image_folder):
    """load_from takes all weights; clustering and classifier start anew, as in a first epoch."""
    path = str(tmp_path / 'zoo.pth')
    torch.save(dict(state_dict=theirs(method, depth=18).state_dict()), path)
    cfg = ours(method, depth=18)
    cfg.merge_from_dict(
        {
            'work_dir': str(tmp_path / 'work_dir'),
            'load_from': path,
            'train_dataloader.batch_size': 3,
            'train_dataloader.num_workers': 0,
            'train_dataloader.persistent_workers': False,
            'train_dataloader.dataset.data_root': str(image_folder),
            'train_dataloader.dataset.data_prefix': '',
            'train_cfg.max_epochs': 1,
            'optim_wrapper.optimizer.lr': 0.0,
        }
    )
    cfg.custom_hooks[0].num_workers = 0
    cfg.train_dataloader.dataset.pipeline[0].views[0].size = 32
    cfg.custom_hooks[0].pipeline[3].size = 32
    model = train(cfg)
    for name, value in torch.load(path)['state_dict'].items():
        if name.startswith('backbone') and 'running' not in name and 'tracked' not in name:
            assert torch.equal(model.state_dict()[name], value), name
    assert model.labelers[0].sizes().sum() == 9


# Where we differ on purpose --------------------------------------------------------------------


def test_their_loss_is_k_times_too_small():
    """Their class weights sum to 1 and the mean does not divide by them; ours is ln K."""
    from mmcls.models.losses import CrossEntropyLoss

    num_clusters = 50
    logits, label = torch.zeros(8, num_clusters), torch.arange(8)
    loss = CrossEntropyLoss(class_weight=torch.full((num_clusters,), 1 / num_clusters))
    assert loss(logits, label).item() == pytest.approx(math.log(num_clusters) / num_clusters)
    cfg = ours('odc')
    cfg.model.clustering.num_clusters = num_clusters
    head = build(cfg).head
    head.reset(0)
    features = torch.zeros(8, head.in_channels)
    weight = torch.full((num_clusters,), 1 / num_clusters)
    assert head.loss(features, label, weight)['loss'].item() == pytest.approx(
        math.log(num_clusters)
    )


def test_their_workers_keep_the_labels_of_the_first_clustering(tmp_path):
    """Their labels live in the data set, of which a persistent worker has a copy; ours do not."""
    from mmselfsup.datasets import DeepClusterImageNet
    from mmselfsup.datasets.transforms import PackSelfSupInputs

    for i in range(4):
        folder = tmp_path / 'train' / f'class{i}'
        folder.mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / 'a.jpg')

    def pack(record):
        keys = ['clustering_label']
        return PackSelfSupInputs(pseudo_label_keys=keys)(dict(record, img=np.zeros((8, 8, 3))))

    dataset = DeepClusterImageNet(
        data_root=str(tmp_path), data_prefix='train', metainfo=dict(classes=list('abcd'))
    )
    dataset.pipeline = pack
    loader = DataLoader(
        dataset, 4, num_workers=1, persistent_workers=True, collate_fn=default_collate
    )

    def seen():
        (batch,) = loader
        return [int(s.pseudo_label.clustering_label) for s in batch['data_samples']]

    dataset.assign_labels([0, 0, 1, 1])
    assert seen() == [0, 0, 1, 1]
    dataset.assign_labels([2, 2, 2, 2])
    assert seen() == [0, 0, 1, 1]


def test_their_memory_is_not_in_a_checkpoint():
    """So a resumed run clusters and resets the classifier again; ours has all of it."""
    memory = [name for name in theirs('odc').state_dict() if name.startswith('memory_bank')]
    assert memory == ['memory_bank.centroids']
    model = build(ours('odc'))
    model.init_labelers(10)
    names = {'memory.x', 'labels.label', 'centroids', 'total', 'size', 'num_fits'}
    assert {f'labelers.0.{name}' for name in names} <= set(model.state_dict())


def test_their_sobel_filter_is_random_after_initialization():
    """Their initializer of convolutions reaches the filter; ours is a buffer."""
    from mmselfsup.models import ResNetSobel as TheirResNetSobel

    with DefaultScope.overwrite_default_scope('mmselfsup'):
        their = TheirResNetSobel(depth=18)
        their.init_weights()
    our = ResNetSobel(depth=18)
    our.init_weights()
    horizontal = [[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]]
    assert our.sobel_layer.sobel[1].weight[0, 0].tolist() == horizontal
    assert their.sobel_layer.sobel[1].weight[0, 0].tolist() != horizontal


def test_the_sobel_filter_sees_edges_and_no_colours():
    sobel = ResNetSobel(depth=18).sobel_layer
    edge = torch.zeros(1, 3, 6, 6)
    edge[..., 3:] = 1.0
    horizontal, vertical = sobel(edge)[0, :, 2, 1:5]
    assert horizontal.tolist() == pytest.approx([0, -4, -4, 0])
    assert vertical.tolist() == pytest.approx([0] * 4)
    colours = torch.rand(1, 3, 6, 6)
    torch.testing.assert_close(sobel(colours), sobel(colours.flip(1)))
