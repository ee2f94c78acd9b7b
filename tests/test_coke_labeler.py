import pytest
import torch
from torch.nn.functional import normalize

from mmcoke.clustering import CoKeLabeler


def epochs(num_epochs, num_samples=60, dim=6, batch=16, seed=0):
    """For each epoch, batches of features and indices; incomplete ones are left out."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(num_epochs):
        order = torch.randperm(num_samples, generator=generator)
        x = normalize(torch.randn(num_samples, dim, generator=generator), dim=1)
        yield [(x[i], i) for i in order.split(batch) if len(i) == batch]


def run(labeler, batches_of_epochs, first=0):
    targets = []
    for epoch, batches in enumerate(batches_of_epochs, start=first):
        labeler.set_epoch(epoch)
        targets += [labeler.step(x, idx) for x, idx in batches]
        labeler.end_epoch()
    return targets


@pytest.mark.parametrize('average_from_epoch', [None, 3, 2])
@pytest.mark.parametrize('split', [1, 3, 5])
def test_resume_continues_bit_for_bit(average_from_epoch, split):
    data = list(epochs(6))
    make = lambda seed: CoKeLabeler(  # noqa: E731
        60, 8, 6, dual_lr=1.0, average_from_epoch=average_from_epoch, seed=seed
    )
    whole = make(0)
    expected = run(whole, data)

    first = make(0)
    targets = run(first, data[:split])
    resumed = make(1)
    resumed.load_state_dict(first.state_dict())
    targets += run(resumed, data[split:], split)
    assert all(torch.equal(a, b) for a, b in zip(targets, expected, strict=True))
    state = resumed.state_dict()
    assert all(torch.equal(buffer, state[name]) for name, buffer in whole.state_dict().items())


def test_the_target_is_the_label_of_the_last_epoch():
    labeler = CoKeLabeler(60, 8, 6, dual_lr=1.0)
    one, two = epochs(2)
    run(labeler, [one])
    stored = labeler.newest.label.clone()
    labeler.set_epoch(1)
    for x, idx in two:
        seen = stored[idx] >= 0
        assert torch.equal(labeler.step(x, idx)[seen], stored[idx][seen].long())


def test_a_sample_without_a_label_uses_the_one_it_just_got():
    labeler = CoKeLabeler(60, 8, 6)
    ((x, idx), *_) = next(epochs(1))
    target = labeler.step(x, idx)
    assert torch.equal(target, labeler.newest.read(idx))


def test_soft_targets_begin_after_the_first_epoch_of_stage_two():
    labeler = CoKeLabeler(60, 8, 6, average_from_epoch=1)
    hard, first, soft = (run(labeler, [batches], e)[0] for e, batches in enumerate(epochs(3)))
    assert hard.dtype == first.dtype == torch.int64
    assert soft.shape == (16, 8)
    torch.testing.assert_close(soft.sum(1), torch.ones(16))


def test_sizes_count_the_newest_labels():
    labeler = CoKeLabeler(60, 8, 6, average_from_epoch=1)
    run(labeler, epochs(3))
    label = labeler.newest.read(torch.arange(60))
    assert labeler.sizes().tolist() == torch.bincount(label[label >= 0], minlength=8).tolist()


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_features_that_are_not_finite_change_nothing(value):
    labeler = CoKeLabeler(60, 8, 6)
    ((x, idx), *_) = next(epochs(1))
    before = {name: buffer.clone() for name, buffer in labeler.state_dict().items()}
    x[3, 2] = value
    with pytest.raises(ValueError, match=rf'1 of 16 samples .*\[{idx[3]}\]'):
        labeler.step(x, idx)
    assert all(torch.equal(before[name], b) for name, b in labeler.state_dict().items())


def test_an_index_outside_the_data_set_is_refused_with_both_numbers():
    labeler = CoKeLabeler(60, 8, 6)
    x = torch.eye(6)[:2]
    with pytest.raises(ValueError, match=r'0 to 60, .* 60 samples'):
        labeler.step(x, torch.tensor([0, 60]))


def test_more_clusters_than_samples_are_refused_with_both_numbers():
    with pytest.raises(ValueError, match=r'num_clusters=11 .* 10 samples'):
        CoKeLabeler(10, 11, 6)


def test_wrong_shapes_are_refused():
    labeler = CoKeLabeler(60, 8, 6)
    with pytest.raises(ValueError, match=r'\(N, 6\)'):
        labeler.step(torch.eye(5), torch.arange(5))
    with pytest.raises(ValueError, match='empty batch'):
        labeler.step(torch.empty(0, 6), torch.empty(0, dtype=torch.int64))


def test_changed_is_the_share_of_new_labels_in_the_epoch():
    labeler = CoKeLabeler(64, 8, 6, dual_lr=0.0)
    x = normalize(torch.randn(64, 6), dim=1)
    run(labeler, [[(x, torch.arange(64))]])
    assert labeler.changed().item() == 1
    labeler.set_epoch(1)
    stored = labeler.newest.label.clone()
    labeler.step(x, torch.arange(64))
    expected = (stored != labeler.newest.label).float().mean()
    assert labeler.changed().item() == pytest.approx(expected.item())


@pytest.mark.parametrize('average_from_epoch', [None, 0])
def test_targets_of_the_own_rows_are_those_of_all_and_nothing_else_is_kept(average_from_epoch):
    """Of 64 rows on four processes each keeps 16, also of soft targets (n, K)."""
    num_clusters, settings = 50, dict(dual_lr=1.0, average_from_epoch=average_from_epoch)
    whole, *parts = (CoKeLabeler(256, num_clusters, 6, **settings) for _ in range(5))
    own = [slice(first, first + 16) for first in range(0, 64, 16)]
    # The second half comes up for the first time in epoch 1: its rows have no label yet.
    first, second = epochs(2, num_samples=256, batch=64)
    for epoch, batches in enumerate((list(first)[:2], second)):
        for labeler in (whole, *parts):
            labeler.set_epoch(epoch)
        for x, idx in batches:
            target = whole.step(x, idx)
            for labeler, rows in zip(parts, own, strict=True):
                mine = labeler.step(x, idx, own=rows)
                assert torch.equal(mine, target[rows])
                row = num_clusters * 4 if mine.ndim == 2 else 8
                assert mine.untyped_storage().nbytes() == 16 * row
        for labeler in (whole, *parts):
            labeler.end_epoch()
            for name, value in whole.state_dict().items():
                assert torch.equal(labeler.state_dict()[name], value), name
    assert target.ndim == (1 if average_from_epoch is None else 2)
    assert (whole.newest.label >= 0).all()
