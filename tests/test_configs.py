"""Every config of pre-training builds; what is built has the published settings.

The values in the configs themselves are in test_published_recipes.py.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, default_collate
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope

import mmcoke.engine  # noqa: F401 (hooks)
from mmcoke.engine.hooks import SeLaHook
from mmcoke.models import CoKe
from mmcoke.registry import HOOKS, MODELS, OPTIMIZERS, TRANSFORMS

CONFIGS = Path(__file__).parent.parent / 'configs'
RECIPES = sorted(
    path.relative_to(CONFIGS).as_posix()
    for path in (CONFIGS / 'selfsup').rglob('*.py')
    if '_base_' not in path.parts
)
"""Methods with several clusterings."""


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmcoke')


@pytest.mark.parametrize('recipe', RECIPES)
def test_config_builds_and_takes_a_training_step(recipe):
    cfg = Config.fromfile(CONFIGS / recipe)
    assert cfg.default_scope == 'mmcoke'
    assert 'custom_imports' not in cfg
    refitted = cfg.model.type in ('DeepCluster', 'ODC', 'SeLa', 'SelfLabel')
    one = cfg.model.type in ('DeepCluster', 'ODC', 'SelfLabel', 'SwAV')
    cfg.model.clustering.num_clusters = 4 if one else [4, 5]
    if cfg.model.type == 'ODC':
        cfg.model.clustering.min_size = 5
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    model.init_labelers(20)
    if refitted:
        features = torch.randn(20, model.head.in_channels)
        for number, labeler in enumerate(model.labelers):
            labeler.pca_dim = 8
            sela = cfg.model.type == 'SeLa'
            options = SeLaHook.cluster_options(None, model, number) if sela else {}
            labeler.refit(features, **options)
    transforms = [
        TRANSFORMS.build(transform)
        for transform in cfg.train_dataloader.dataset.pipeline
        if transform.type != 'LoadImageFromFile'
    ]
    pipeline = Compose(transforms)
    size = (8, 8) if 'digits' in recipe else (60, 50, 3)
    images = np.random.default_rng(0).integers(0, 255, (4, *size), dtype=np.uint8)
    packed = [pipeline(dict(img=image, sample_idx=i)) for i, image in enumerate(images)]
    batch = default_collate(packed)
    optimizer = OPTIMIZERS.build(dict(cfg.optim_wrapper.optimizer, params=model.parameters()))
    loss = model(**model.data_preprocessor(batch, True), mode='loss')['loss']
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)


PUBLISHED = {
    # epochs, temperature, label weight, prediction weight, first epoch of stage 2
    'coke_r50_8xb64_in1k.py': (1001, 0.1, 0.2, 1.0, 801),
    'coke_r50_8xb64-2view_in1k.py': (1001, 0.05, 0.2, 0.5, None),
    'coke_r50_8xb64-mcrop_in1k.py': (801, 0.05, 0.2, 0.5, None),
}


@pytest.mark.parametrize(('recipe', 'published'), PUBLISHED.items())
def test_recipes_differ_as_published(recipe, published):
    cfg = Config.fromfile(CONFIGS / 'selfsup/coke' / recipe)
    head = MODELS.build(cfg.model.head)
    assert published == (
        cfg.train_cfg.max_epochs,
        head.temperature,
        head.label_weight,
        head.prediction_weight,
        cfg.model.clustering.get('average_from_epoch'),
    )
    assert head.small_weight == 0.5
    clustering = cfg.model.clustering
    assert (clustering.num_clusters, clustering.min_ratio) == ([3000, 4000, 5000], 0.4)


CLASSIFIERS = {
    # learning rate, epochs, backbone, sampler
    'deepcluster/deepcluster_r50_8xb64_in1k.py': (0.1, 200, 'ResNet', 'ClusterUniformSampler'),
    'deepcluster/deepcluster-sobel_r50_8xb64_in1k.py': (
        0.1,
        200,
        'ResNetSobel',
        'ClusterUniformSampler',
    ),
    'odc/odc_r50_8xb64_in1k.py': (0.06, 440, 'ResNet', 'ReplacementSampler'),
}


@pytest.mark.parametrize(('recipe', 'published'), CLASSIFIERS.items())
def test_deepcluster_and_odc_recipes_are_the_published_ones(recipe, published):
    cfg = Config.fromfile(CONFIGS / 'selfsup' / recipe)
    optimizer = cfg.optim_wrapper.optimizer
    assert published == (
        optimizer.lr,
        cfg.train_cfg.max_epochs,
        cfg.model.backbone.type,
        cfg.train_dataloader.sampler.type,
    )
    assert (optimizer.type, optimizer.momentum, optimizer.weight_decay) == ('SGD', 0.9, 1e-5)
    assert cfg.optim_wrapper.paramwise_cfg.custom_keys.head.momentum == 0
    assert cfg.auto_scale_lr.base_batch_size == 8 * cfg.train_dataloader.batch_size == 512
    assert 'color' not in str(cfg.custom_hooks[0].pipeline).lower()
    model = MODELS.build(cfg.model)
    model.init_labelers(200_000)
    labeler, hook = model.labelers[0], HOOKS.build(cfg.custom_hooks[0])
    assert labeler.num_clusters == 10_000
    if cfg.model.type == 'DeepCluster':
        assert (labeler.pca_dim, labeler.num_iters, hook.interval) == (256, 20, 1)
        assert labeler.reweight_pow == 0  # the sampler is uniform instead
    else:
        assert (labeler.momentum, labeler.min_size, labeler.reweight_pow) == (0.5, 20, 0.5)
        assert (hook.centroids_interval, hook.small_clusters_interval) == (10, 1)
        assert cfg.param_scheduler[0].milestones == [400]
        assert cfg.param_scheduler[0].gamma == 0.4
        neck = model.neck
        assert (neck.fc0.out_features, neck.fc1.out_features, neck.dropout.p) == (512, 256, 0.5)
        assert (neck.bn0.momentum, neck.bn0.affine) == (0.001, False)


def test_multi_crop_makes_two_views_and_six_crops():
    cfg = Config.fromfile(CONFIGS / 'selfsup/coke/coke_r50_8xb64-mcrop_in1k.py')
    transforms = [t for t in cfg.train_pipeline if t.type != 'LoadImageFromFile']
    pipeline = Compose([TRANSFORMS.build(transform) for transform in transforms])
    image = np.random.default_rng(0).integers(0, 255, (60, 50, 3), dtype=np.uint8)
    views = pipeline(dict(img=image, sample_idx=0))['inputs']
    sizes = [tuple(view.shape) for view in views]
    assert sizes == [(3, 224, 224)] * 2 + [(3, 96, 96)] * 6


def test_in1k_network_has_the_published_layers():
    """Shapes of the projector and predictor in the authors' checkpoints, in their order."""
    cfg = Config.fromfile(CONFIGS / 'selfsup/coke/coke_r50_8xb64_in1k.py')
    model = MODELS.build(cfg.model)
    assert isinstance(model, CoKe)

    def linears(module):
        layers = [m for m in module.modules() if isinstance(m, torch.nn.Linear)]
        return [(m.in_features, m.out_features, m.bias is not None) for m in layers]

    def norms(module):
        return [m.num_features for m in module.modules() if hasattr(m, 'num_features')]

    wide = (2048, 2048, True)
    assert linears(model.neck) == [wide, wide, (2048, 128, True)]
    assert norms(model.neck) == [2048, 2048, 128]
    assert linears(model.head) == [(128, 2048, True), (2048, 128, True)]
    assert norms(model.head) == [2048]
