"""Settings of the models out of their range end with one line that names them."""

import math

import pytest
import torch
from conftest import tiny
from mmengine.registry import init_default_scope
from mmengine.structures import BaseDataElement

from mmcoke.registry import MODELS

NOT_NUMBERS = [math.nan, math.inf, -math.inf, True, '0.5', None]
COUNTS = [0, -1, 2.5, *NOT_NUMBERS]
SHARES = [-0.1, 1.1, *NOT_NUMBERS]
BAD = {
    ('coke', 'head.in_channels'): COUNTS,
    ('coke', 'head.hid_channels'): COUNTS,
    ('coke', 'head.temperature'): [0, -0.1, *NOT_NUMBERS],
    ('coke', 'head.prediction_weight'): [0, *SHARES],
    ('coke', 'head.label_weight'): SHARES,
    ('coke', 'head.small_weight'): SHARES,
    ('coke', 'joint_views'): ['no', 0, None],
    ('coke', 'clustering.num_clusters'): [[4, value] for value in COUNTS] + COUNTS,
    ('coke', 'clustering.dual_lr'): [-1.0, *NOT_NUMBERS],
    ('coke', 'clustering.dual_lr_base_batch_size'): [0, -64, 64.5, math.nan, math.inf, '64'],
    ('coke', 'clustering.min_ratio'): [0, *SHARES],
    ('deepcluster', 'clustering.num_clusters'): [[4], *COUNTS],
    ('deepcluster', 'head.init_std'): [-0.1, *NOT_NUMBERS],
    ('deepclusterv2', 'clustering.num_clusters'): [[4, value] for value in COUNTS] + COUNTS,
    ('deepclusterv2', 'head.temperature'): [0, -0.1, *NOT_NUMBERS],
    ('deepclusterv2', 'joint_views'): ['no', 0, None],
    ('odc', 'clustering.num_clusters'): [[4], *COUNTS],
    ('odc', 'neck.hid_channels'): COUNTS,
    ('odc', 'neck.out_channels'): COUNTS,
    ('odc', 'neck.dropout'): SHARES,
    ('secu', 'head.temperature'): [0, -0.1, *NOT_NUMBERS],
    ('secu', 'head.label_weight'): SHARES,
    ('secu', 'head.in_channels'): COUNTS,
    ('secu', 'head.chunk_size'): [0, 1.5, 'all'],
    ('secu', 'clustering.num_clusters'): [[4, value] for value in COUNTS] + COUNTS,
    ('secu', 'clustering.center_lr'): [-1.0, *NOT_NUMBERS],
    ('secu', 'clustering.constraint'): ['sizes', None, 0],
    ('secu', 'clustering.center_temperature'): [0, *NOT_NUMBERS],
    ('swav', 'clustering.num_clusters'): [[4], *COUNTS],
    ('swav', 'head.temperature'): [0, -0.1, *NOT_NUMBERS],
    ('swav', 'head.freeze_epochs'): [-1, 2.5, *NOT_NUMBERS],
}


@pytest.mark.parametrize(('method', 'name'), BAD)
def test_a_setting_out_of_its_range_is_named_in_one_line(method, name):
    init_default_scope('mmcoke')
    for value in BAD[method, name]:
        cfg = tiny(method).model
        section, _, key = name.rpartition('.')
        (cfg[section] if section else cfg)[key] = value
        with pytest.raises(ValueError, match=key) as caught:
            MODELS.build(cfg)
        # mmengine puts the name of the class in front.
        assert len(str(caught.value).splitlines()) == 1, value


def test_a_base_batch_size_without_dual_lr_is_refused(tiny_config):
    init_default_scope('mmcoke')
    del tiny_config.model.clustering['dual_lr']
    with pytest.raises(ValueError, match=r'batch_size needs clustering\.dual_lr'):
        MODELS.build(tiny_config.model)


def test_no_number_of_clusters_is_refused(tiny_config):
    init_default_scope('mmcoke')
    tiny_config.model.clustering.num_clusters = []
    model = MODELS.build(tiny_config.model)
    with pytest.raises(ValueError, match='num_clusters is empty'):
        model.init_labelers(20)


def test_no_augmentation_is_refused(tiny_config):
    init_default_scope('mmcoke')
    tiny_config.model.data_preprocessor.views = []
    with pytest.raises(ValueError, match='views must have'):
        MODELS.build(tiny_config.model)


def loss_of(method, num_images, **options):
    """The loss of a few images in training mode."""
    init_default_scope('mmcoke')
    cfg = tiny(method)
    cfg.merge_from_dict(options)
    if method == 'odc':
        cfg.model.clustering.min_size = 5
    model = MODELS.build(cfg.model)
    model.init_labelers(100)
    if method != 'coke':
        model.labelers[0].refit(torch.randn(100, model.head.in_channels))
    samples = [BaseDataElement(metainfo=dict(sample_idx=i)) for i in range(num_images)]
    views = 2 if method == 'coke' else 1
    return model.loss([torch.randn(num_images, 1, 16, 16) for _ in range(views)], samples)['loss']


@pytest.mark.parametrize('method', ['coke', 'odc'])
def test_one_image_under_batch_norm_is_refused_with_a_remedy_that_helps(method):
    with pytest.raises(ValueError, match='batch of one image') as caught:
        loss_of(method, 1)
    assert 'train_dataloader.batch_size, the images per process, to 2' in str(caught.value)
    assert loss_of(method, 2).isfinite()


def test_one_image_is_fine_where_no_batch_norm_fails():
    assert loss_of('deepcluster', 1).isfinite()  # its only BN is over maps
    assert loss_of('coke', 1, **{'model.joint_views': True}).isfinite()  # two views are two rows
