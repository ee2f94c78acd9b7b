"""The formulas of docs/scaling.md are those of the code."""

from importlib import import_module

import pytest
import torch
from conftest import ROOT
from mmengine.config import Config

from mmcoke.clustering import CoKeLabeler
from mmcoke.registry import MODELS


@pytest.fixture
def scaling(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'benchmarks')
    return import_module('scaling')


@pytest.mark.parametrize('heads', [[128], [129], [3, 32_768], [7, 32_769, 8]])
@pytest.mark.parametrize('slots', [None, 2, 5])
def test_the_formulas_count_the_bytes_of_labels_and_centers(scaling, heads, slots):
    stage_2 = dict(average_from_epoch=1, num_slots=slots) if slots else {}
    state = CoKeLabeler(40_000, heads, 3, **stage_2).state_dict()
    tables = sum(x.nbytes for name, x in state.items() if '.labels.' in name)
    centers = sum(x.nbytes for name, x in state.items() if '.kmeans.' in name)
    assert scaling.table_bytes(40_000, heads, slots) == tables
    assert scaling.center_bytes(heads, 3) == centers


def test_the_formula_counts_the_bytes_that_a_process_gathers(scaling):
    x_ND, idx_N = torch.zeros(12, 7), torch.zeros(12, dtype=torch.int64)
    assert scaling.gathered_bytes(12, 7) == x_ND.nbytes + idx_N.nbytes


def test_the_network_on_paper_is_that_of_the_recipe(scaling):
    path = ROOT / 'configs/selfsup/coke/coke_r50_8xb64_in1k.py'
    network = scaling.Network.of(path)
    model = MODELS.build(Config.fromfile(path).model.backbone)
    of_backbone = sum(x.numel() for x in model.parameters())
    projector = 2 * (2048 * 2048 + 3 * 2048) + 2048 * 128 + 3 * 128
    predictor = 128 * 2048 + 3 * 2048 + 2048 * 128 + 128
    assert network.parameters == of_backbone + projector + predictor == 32_702_016
    assert network.norm_layers == 53 + 3 + 1
