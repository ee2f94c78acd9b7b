"""Numbers that are no settings are refused where they are given, by name, value and range."""

import re

import numpy as np
import pytest
import torch

from mmcoke.clustering import (
    AveragedPseudoLabels,
    CoKeLabeler,
    DeepClusterLabeler,
    DeepClusterV2Labeler,
    FeatureMemory,
    ODCLabeler,
    OnlineConstrainedKMeans,
    PseudoLabels,
    SeLaLabeler,
    SwAVLabeler,
    kmeans,
)
from mmcoke.clustering.settings import check_number
from mmcoke.engine.hooks import DeepClusterHook, KNNHook, ODCHook
from mmcoke.engine.optimizers import LARS
from mmcoke.engine.schedulers import WarmupCosineLR
from mmcoke.evaluation import knn_classify, linear_probe
from mmcoke.models.heads import CentroidHead, CoKeHead, SwAVHead

X = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(40) % 3


def lars(**settings):
    return LARS([torch.nn.Parameter(X.clone())], **dict(lr=0.1) | settings)


def group(**settings):
    return LARS([dict(params=[torch.nn.Parameter(X.clone())], **settings)], lr=0.1)


def curve(**settings):
    return WarmupCosineLR(lars(), **dict(end=20, zero=1, warmup=2) | settings)


def curve_by_epoch(**settings):
    settings = dict(end=20, zero=1, warmup=2, epoch_length=3) | settings
    return WarmupCosineLR.build_iter_from_epoch(lars(), **settings)


NAN, INF = float('nan'), float('inf')
WHOLE = (NAN, INF, 2.5, 3.0, True, '3', None, -1)
REAL = (NAN, INF, -INF, True, '0.5', None, -0.1)
COKE = dict(num_samples=40, num_clusters=3, dim=4)
KMEANS = dict(num_clusters=3, dim=4)
DEEPCLUSTER = dict(num_samples=40, num_clusters=3)
AVERAGED = dict(num_samples=40, num_clusters=3)
ODC = dict(COKE, min_size=2)
CASES = [
    (PseudoLabels, DEEPCLUSTER, WHOLE, ['num_samples', 'num_clusters']),
    (AveragedPseudoLabels, AVERAGED, WHOLE, ['num_samples', 'num_clusters', 'num_slots']),
    (AveragedPseudoLabels, AVERAGED, (*REAL, 0), ['temperature']),
    (FeatureMemory, dict(num_samples=40, dim=4), (*WHOLE, 0), ['num_samples', 'dim']),
    (OnlineConstrainedKMeans, KMEANS, WHOLE, ['num_clusters', 'dim', 'seed']),
    (OnlineConstrainedKMeans, KMEANS, (NAN, 1.5, True, -1), ['average_from_epoch']),
    (OnlineConstrainedKMeans, KMEANS, (*REAL, 0, 1.1), ['min_ratio']),
    (OnlineConstrainedKMeans, KMEANS, REAL, ['dual_lr']),
    (CoKeLabeler, COKE, WHOLE, ['num_samples', 'num_clusters', 'dim', 'seed', 'num_slots']),
    (CoKeLabeler, COKE, (*REAL, 0), ['label_temperature', 'min_ratio']),
    (DeepClusterLabeler, DEEPCLUSTER, WHOLE, ['num_samples', 'num_clusters', 'num_iters', 'seed']),
    (DeepClusterLabeler, DEEPCLUSTER, (NAN, 2.5, True, 0), ['pca_dim']),
    (DeepClusterLabeler, DEEPCLUSTER, (*REAL, 1.1), ['reweight_pow']),
    (DeepClusterV2Labeler, COKE, WHOLE, ['num_samples', 'num_clusters', 'dim']),
    (DeepClusterV2Labeler, COKE, WHOLE, ['num_iters', 'seed']),
    (ODCLabeler, ODC, WHOLE, ['num_samples', 'num_clusters', 'dim', 'min_size', 'num_iters']),
    (ODCLabeler, ODC, WHOLE, ['seed']),
    (ODCLabeler, ODC, (*REAL, 0, 1.1), ['momentum']),
    (ODCLabeler, ODC, (*REAL, 1.1), ['reweight_pow']),
    (SwAVLabeler, COKE, WHOLE, ['num_samples', 'num_clusters', 'dim', 'num_iters', 'queue_length']),
    (SwAVLabeler, COKE, WHOLE, ['queue_from_epoch']),
    (SwAVLabeler, COKE, (*REAL, 0), ['temperature']),
    (SeLaLabeler, DEEPCLUSTER, WHOLE, ['num_samples', 'num_clusters', 'num_iters', 'chunk_size']),
    (SeLaLabeler, DEEPCLUSTER, (*REAL, 0), ['temperature']),
    (SeLaLabeler, DEEPCLUSTER, REAL, ['tolerance']),
    (kmeans, dict(x_AD=X, num_clusters=3), WHOLE, ['num_clusters', 'num_iters', 'seed']),
    (knn_classify, dict(x_train=X, y_train=Y, x_test=X), (*WHOLE, 0), ['k', 'chunk_size']),
    (knn_classify, dict(x_train=X, y_train=Y, x_test=X), (*REAL, 0), ['temperature']),
    (linear_probe, dict(x_train=X, y_train=Y, x_test=X), (*REAL, 0), ['c']),
    (linear_probe, dict(x_train=X, y_train=Y, x_test=X), (*WHOLE, 0), ['max_iter']),
    (lars, {}, REAL, ['lr', 'momentum', 'weight_decay', 'trust_coefficient']),
    (lars, {}, (1, 1.5), ['momentum']),
    (group, {}, REAL, ['lr', 'momentum', 'weight_decay', 'trust_coefficient']),
    (curve, {}, (NAN, INF, 2.5, True, -1), ['zero', 'warmup', 'begin', 'end']),
    (curve_by_epoch, {}, (NAN, INF, 2.5, True, -1), ['zero', 'warmup', 'begin', 'end']),
    (curve, {}, (*REAL, 1.1), ['start_factor', 'end_factor']),
    (DeepClusterHook, dict(pipeline=[]), (*WHOLE, 0), ['interval', 'batch_size']),
    (ODCHook, dict(pipeline=[]), (*WHOLE, 0), ['centroids_interval', 'small_clusters_interval']),
    (ODCHook, dict(pipeline=[]), WHOLE, ['num_workers']),
    (KNNHook, dict(train={}, test={}), (*WHOLE, 0), ['interval', 'max_samples', 'k']),
    (KNNHook, dict(train={}, test={}), (*REAL, 0), ['temperature']),
    (CoKeHead, dict(in_channels=4, hid_channels=4), (*REAL, 0), ['temperature']),
    (CentroidHead, dict(in_channels=4), (*REAL, 0), ['temperature']),
    (CentroidHead, dict(in_channels=4), WHOLE, ['in_channels']),
    (CoKeHead, dict(in_channels=4, hid_channels=4), (*REAL, 0, 1.1), ['prediction_weight']),
    (CoKeHead, dict(in_channels=4, hid_channels=4), REAL, ['label_weight', 'small_weight']),
    (SwAVHead, dict(in_channels=4, num_clusters=4), (*REAL, 0), ['temperature']),
    (SwAVHead, dict(in_channels=4, num_clusters=4), WHOLE, ['in_channels', 'freeze_epochs']),
]


@pytest.mark.parametrize(
    ('make', 'settings', 'name', 'values'),
    [
        pytest.param(make, settings, name, values, id=f'{make.__name__}-{name}-{len(values)}')
        for make, settings, values, names in CASES
        for name in names
    ],
)
def test_a_bad_setting_is_refused_by_name_and_value_in_one_line(make, settings, name, values):
    make(**settings)
    for value in values:
        with pytest.raises(
            ValueError, match=rf'^{name} must be .*{re.escape(str(value))}'
        ) as error:
            make(**settings | {name: value})
        assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('value', 'within', 'whole', 'message'),
    [
        (0, '(0, 1]', False, 'x must be in (0, 1], but is 0.'),
        (0, '(0, inf)', False, 'x must be above 0, but is 0.'),
        (0, '[1, inf)', True, 'x must be at least 1, but is 0.'),
        (2.0, '[1, inf)', True, 'x must be a whole number, at least 1, but is 2.0.'),
        (NAN, '[0, 1)', False, 'x must be a finite number, in [0, 1), but is nan.'),
        (1, '[0, 1)', False, 'x must be in [0, 1), but is 1.'),
    ],
)
def test_the_message_says_what_is_allowed(value, within, whole, message):
    with pytest.raises(ValueError, match=f'^{re.escape(message)}$'):
        check_number('x', value, within, whole=whole)


@pytest.mark.parametrize('value', [1, 10**400, np.int64(3), np.uint8(1)])
def test_whole_numbers_of_any_kind_are_taken(value):
    check_number('x', value, '[1, inf)', whole=True)


@pytest.mark.parametrize('value', [0.5, 1, np.float32(0.5), np.float64(1)])
def test_numbers_of_any_kind_are_taken(value):
    check_number('x', value, '(0, 1]')
