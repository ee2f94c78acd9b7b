"""Several clusterings in one pass are what each of them would be alone."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from mmcoke.clustering import CoKeLabeler
from mmcoke.clustering.online_kmeans import blockwise_argmax

SIZES, NUM_SAMPLES, DIM = [7, 300, 40], 1000, 16
STAGES = pytest.mark.parametrize('average_from_epoch', [None, 2])


def make(average_from_epoch=None):
    """The heads together, and one labeler for each."""
    settings = dict(min_ratio=0.4, dual_lr=5.0, average_from_epoch=average_from_epoch)
    together = CoKeLabeler(NUM_SAMPLES, SIZES, DIM, seed=3, **settings)
    alone = [
        CoKeLabeler(NUM_SAMPLES, k, DIM, seed=3 + head, **settings) for head, k in enumerate(SIZES)
    ]
    return together, alone


def stream(num_epochs):
    """For each epoch, batches of features and indices."""
    generator = torch.Generator().manual_seed(0)
    base = normalize(torch.randn(NUM_SAMPLES, DIM, generator=generator), dim=1)
    for _ in range(num_epochs):
        order = torch.randperm(NUM_SAMPLES, generator=generator)[:900]
        yield [
            (normalize(base[i] + 0.1 * torch.randn(100, DIM, generator=generator), dim=1), i)
            for i in order.split(100)
        ]


def assert_same_state(together, alone):
    state = nn.ModuleList(alone).state_dict()
    assert set(together.state_dict()) == set(state)
    for name, value in together.state_dict().items():
        torch.testing.assert_close(value.double(), state[name].double(), atol=1e-6, rtol=0)


@STAGES
def test_heads_together_equal_each_alone(average_from_epoch):
    together, alone = make(average_from_epoch)
    for epoch, batches in enumerate(stream(5)):
        for labeler in (together, *alone):
            labeler.set_epoch(epoch)
        for x, idx in batches:
            targets = together.step(x, idx, slice(20, 60))
            assert len(targets) == len(SIZES)
            for target, labeler in zip(targets, alone, strict=True):
                expected = labeler.step(x, idx, slice(20, 60))
                assert target.dtype == expected.dtype
                torch.testing.assert_close(target, expected, atol=1e-6, rtol=0)
        for labeler in (together, *alone):
            labeler.end_epoch()
        assert_same_state(together, alone)
        for size, share, labeler in zip(together.sizes(), together.changed(), alone, strict=True):
            assert torch.equal(size, labeler.sizes())
            assert share == labeler.changed()


@STAGES
@pytest.mark.parametrize(
    'copied',
    [
        copy.deepcopy,
        lambda x: pickle.loads(pickle.dumps(x)),
        lambda x: x.to(torch.device('meta')).to_empty(device='cpu'),
        lambda x: (x.load_state_dict(x.state_dict(), assign=True), x)[1],
    ],
    ids=['deepcopy', 'pickle', 'moved', 'assigned'],
)
def test_heads_stay_parts_of_the_whole(copied, average_from_epoch):
    together, alone = make(average_from_epoch)
    state = {name: value.clone() for name, value in together.state_dict().items()}
    together = copied(together)
    together.load_state_dict(state)
    for epoch, batches in enumerate(stream(3)):
        for labeler in (together, *alone):
            labeler.set_epoch(epoch)
        for x, idx in batches[:2]:
            together.step(x, idx)
            [labeler.step(x, idx) for labeler in alone]
        assert_same_state(together, alone)
        for labeler in (together, *alone):
            labeler.end_epoch()


def test_a_copy_goes_its_own_way():
    together, _ = make()
    other = copy.deepcopy(together)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    together.set_epoch(0)
    together.step(*next(stream(1))[0])
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


def test_the_step_size_of_a_head_can_be_set():
    together, alone = make()
    for labeler in (together, *alone):
        labeler.set_epoch(0)
    (batch, later, *_) = next(stream(1))
    for labeler in (together, *alone):
        labeler.step(*batch)
    together[1].kmeans.dual_lr = alone[1].kmeans.dual_lr = 17.0
    for labeler in (together, *alone):
        labeler.step(*later)
    assert_same_state(together, alone)


def test_heads_in_different_epochs_are_refused():
    together, _ = make(average_from_epoch=1)
    together.set_epoch(0)
    together[1].set_epoch(1)
    with pytest.raises(ValueError, match='different epochs'):
        together.step(*next(stream(1))[0])


def test_an_empty_list_is_refused():
    with pytest.raises(ValueError, match='empty'):
        CoKeLabeler(NUM_SAMPLES, [], DIM)


@pytest.mark.parametrize('num_columns', [1, 63, 64, 255, 256, 257, 320, 1000])
def test_blockwise_argmax_is_argmax(num_columns):
    x = torch.randint(5, (200, num_columns), generator=torch.Generator().manual_seed(1)).float()
    first = (x == x.amax(1, keepdim=True)).int().argmax(1)  # many ties: the first counts
    assert torch.equal(blockwise_argmax(x), first)
    assert torch.equal(blockwise_argmax(x.flip(1).T.contiguous().T), x.flip(1).argmax(1))


@STAGES
def test_a_step_is_one_phase_per_graph(average_from_epoch):
    labeler, phases = make(average_from_epoch)[0], []
    for epoch in range(5):
        labeler.set_epoch(epoch)
        phases.append(labeler.phase)
    if average_from_epoch is None:
        assert phases == [(0, 0, 0)] * 5
    else:
        assert [phase[0] for phase in phases] == [0, 0, 1, 2, 2]
