"""tools/profile_step.py finds where the time goes."""

import time

import pytest
from conftest import tiny

from mmcoke.clustering.coke import CoKeHeads
from mmcoke.engine.profiling import ADVICE, PARTS, profile
from mmcoke.models import BatchAugmentPreprocessor, CoKeHead
from mmcoke.models.algorithms import base


def slowly(function):
    def slow(*args, **kwargs):
        time.sleep(0.3)
        return function(*args, **kwargs)

    return slow


@pytest.mark.parametrize(
    ('owner', 'name', 'part'),
    [
        (CoKeHeads, 'step', 'clustering'),
        (CoKeHead, 'loss', 'loss'),
        (BatchAugmentPreprocessor, 'make_views', 'augment'),
        (base, 'all_gather', 'communication'),
    ],
)
def test_the_slow_part_is_found(owner, name, part, tmp_path, monkeypatch):
    monkeypatch.setattr(owner, name, slowly(getattr(owner, name)))
    before = base.all_gather
    found = profile(lambda: tiny('coke', tmp_path), warmup=1, num_iters=2)
    assert max(found['parts'], key=found['parts'].get) == part
    assert found['parts'][part] > 300 and found['iteration'] > 300
    assert set(found['parts']) <= set(PARTS) and part in ADVICE
    assert {'data wait', 'forward', 'backward', 'optimizer'} <= set(found['parts'])
    assert found['loop'] == 'CapturedTrainLoop'
    assert base.all_gather is before  # nothing is left behind


@pytest.mark.parametrize('method', ['deepcluster', 'deepclusterv2', 'odc', 'secu', 'swav'])
def test_other_methods_can_be_profiled(method, tmp_path):
    found = profile(lambda: tiny(method, tmp_path), warmup=1, num_iters=2)
    assert {'clustering', 'loss', 'backward'} <= set(found['parts'])
