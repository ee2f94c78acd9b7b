import subprocess
import sys

import pytest
import torch

from mmcoke.clustering import UNASSIGNED, AveragedPseudoLabels, PseudoLabels
from mmcoke.clustering.pseudo_labels import last_of_equals


@pytest.mark.parametrize(
    ('num_clusters', 'dtype'),
    [
        (10, torch.int8),
        (128, torch.int8),
        (129, torch.int16),
        (32768, torch.int16),
        (32769, torch.int32),
    ],
)
def test_labels_are_stored_in_the_smallest_type(num_clusters, dtype):
    labels = PseudoLabels(40000, num_clusters)
    assert labels.label.dtype == dtype
    last = torch.tensor([num_clusters - 1])
    labels.write(torch.tensor([7]), last)
    assert labels.read(torch.tensor([7])).tolist() == last.tolist()


def test_three_averaged_tables_for_imagenet_stay_under_80_mb():
    num_bytes = 0
    for num_clusters in (3000, 4000, 5000):
        with torch.device('meta'):
            table = AveragedPseudoLabels(1_281_167, num_clusters)
        num_bytes += sum(buffer.nbytes for buffer in table.buffers())
    assert num_bytes < 80e6


def test_samples_start_unassigned_and_count_in_no_cluster():
    labels = PseudoLabels(5, 3)
    assert labels.read(torch.arange(5)).tolist() == [UNASSIGNED] * 5
    assert labels.sizes().tolist() == [0, 0, 0]


def test_write_returns_the_share_that_changed():
    labels = PseudoLabels(6, 3)
    idx = torch.tensor([1, 4, 0, 2])
    assert labels.write(idx, torch.tensor([0, 1, 2, 2])).item() == 1.0
    assert labels.write(idx, torch.tensor([0, 1, 1, 2])).item() == 0.25
    assert labels.sizes().tolist() == [1, 2, 1]
    assert labels.read(torch.arange(6)).tolist() == [1, 0, 2, UNASSIGNED, 1, UNASSIGNED]


def test_of_equal_indices_the_last_row_counts():
    labels = PseudoLabels(4, 3)
    labels.write(torch.tensor([2, 1, 2, 2, 1]), torch.tensor([0, 1, 2, 1, 0]))
    assert labels.read(torch.tensor([1, 2])).tolist() == [0, 1]
    averaged = AveragedPseudoLabels(4, 3)
    averaged.write(torch.tensor([2, 1, 2, 2, 1]), torch.tensor([0, 1, 2, 1, 0]), 1)
    assert averaged.read(torch.tensor([1, 2])).argmax(1).tolist() == [0, 1]


def weights(table, sample, *labels):
    """The average weights behind the soft target of a sample, given its occupied slots."""
    target = table.read(torch.tensor([sample]))[0]
    log = torch.log(target[list(labels)]) * table.temperature
    return (log + (1 - log.sum()) / len(labels)).tolist()


def test_label_weights_are_the_mean_of_one_hots():
    table = AveragedPseudoLabels(3, 4, temperature=0.5)
    idx = torch.tensor([1])
    for step, label in enumerate([2, 0, 2, 3], start=1):
        table.write(idx, torch.tensor([label]), step)
    # weights 1/2, 1/4, 1/4, softened: exp(1), exp(1/2), exp(1/2)
    e = torch.tensor([0.5, float('-inf'), 1.0, 0.5]).exp()
    torch.testing.assert_close(table.read(idx)[0], e / e.sum(), atol=1e-6, rtol=0)
    assert table.newest.read(idx).tolist() == [3]


def test_a_full_table_drops_the_least_weight_and_shares_it_out():
    table = AveragedPseudoLabels(2, 6, num_slots=2)
    idx = torch.tensor([0])
    for step, label in enumerate([5, 5, 1], start=1):
        table.write(idx, torch.tensor([label]), step)
    # 2/3 and 1/3; at step 4, label 3 replaces 1: 5 keeps 3/4, 3 has 1/4
    table.write(idx, torch.tensor([3]), 4)
    assert weights(table, 0, 5, 3) == pytest.approx([0.75, 0.25], abs=1e-4)
    assert table.read(idx)[0, [0, 1, 2, 4]].tolist() == [0, 0, 0, 0]


def test_of_equal_weights_the_least_recently_used_is_dropped():
    table = AveragedPseudoLabels(1, 6, num_slots=3)
    idx = torch.tensor([0])
    for step, label in enumerate([0, 1, 1, 0, 2, 2, 4], start=1):
        table.write(idx, torch.tensor([label]), step)
    assert (table.read(idx)[0] > 0).nonzero().flatten().tolist() == [0, 2, 4]


def test_step_one_forgets_earlier_labels():
    table = AveragedPseudoLabels(1, 3)
    idx = torch.tensor([0])
    table.write(idx, torch.tensor([0]), 1)
    table.write(idx, torch.tensor([1]), 2)
    table.write(idx, torch.tensor([2]), 1)
    assert table.read(idx).tolist() == [[0, 0, 1]]


def test_a_sample_that_missed_the_first_step_starts_with_its_first_label():
    table = AveragedPseudoLabels(2, 3)
    table.newest.write(torch.tensor([0]), torch.tensor([1]))
    assert table.read(torch.tensor([0, 1])).tolist() == [[0, 1, 0], [0, 0, 0]]
    table.write(torch.tensor([0]), torch.tensor([2]), 5)
    assert table.read(torch.tensor([0])).tolist() == [[0, 0, 1]]


def test_soft_targets_follow_the_plain_average_over_many_steps():
    generator = torch.Generator().manual_seed(0)
    num_samples, num_clusters, steps = 50, 5, 60
    table = AveragedPseudoLabels(num_samples, num_clusters, num_slots=5, temperature=0.5)
    total = torch.zeros(num_samples, num_clusters)
    idx = torch.arange(num_samples)
    for step in range(1, steps + 1):
        label = torch.randint(num_clusters, (num_samples,), generator=generator)
        table.write(idx, label, step)
        total[idx, label] += 1
        mean = total / step
        expected = torch.exp(mean / 0.5) * (mean > 0)
        expected /= expected.sum(1, keepdim=True)
        atol = 1e-5 if step <= 10 else 1e-3
        torch.testing.assert_close(table.read(idx), expected, atol=atol, rtol=0)


def test_steps_are_counted_from_one():
    with pytest.raises(ValueError, match='from 1'):
        AveragedPseudoLabels(2, 2).write(torch.tensor([0]), torch.tensor([0]), 0)


def test_every_row_finds_the_last_one_with_its_index():
    """Checked apart from the tables: on CPU an indexed write happens to keep the last row."""
    idx = torch.tensor([7, 2, 7, 7, 5, 2])
    assert last_of_equals(idx).tolist() == [3, 5, 3, 3, 4, 5]


@pytest.mark.parametrize('temperature', [1e-320, 1e-40, 1e-6, 0.004, 0.011, 0.5, 1e6, 1e300])
def test_targets_at_any_temperature_are_those_of_a_stable_softmax(temperature):
    table = AveragedPseudoLabels(2, 4, num_slots=3, temperature=temperature)
    for step, label in enumerate([1, 3, 3], start=1):
        table.write(torch.tensor([0]), torch.tensor([label]), step)
    target = table.read(torch.tensor([0, 1]))
    gap = torch.tensor(1 / 3, dtype=torch.float64) / temperature  # weights are 2/3 and 1/3
    share = 1 / (1 + torch.exp(-gap))
    expected = torch.tensor([0, 1 - share, 0, share]).float()
    torch.testing.assert_close(target, torch.stack([expected, torch.zeros(4)]), atol=1e-6, rtol=0)


LABELS = [
    ([257], r'label runs from 257 to 257, but labels of 4 clusters are 0 \.\.\. 3'),
    ([-1], 'label runs from -1 to -1'),
    ([4], 'label runs from 4 to 4'),
    ([1.0], r'Labels must be integers of shape \(1,\), but are torch.float32'),
    ([True], 'torch.bool'),
    ([1, 2], r'\(1,\), but are torch.int64 of shape \(2,\)'),
    ([[1]], r'shape \(1, 1\)'),
    ([], r'shape \(0,\)'),
]


@pytest.mark.parametrize(('label', 'message'), LABELS)
def test_labels_that_would_wrap_or_spread_are_refused_and_change_nothing(label, message):
    averaged, plain = AveragedPseudoLabels(6, 4), PseudoLabels(1, 4)
    averaged.write(torch.arange(6), torch.arange(6) % 4, 1)
    plain.assign_all(torch.tensor([2]))
    before = [{k: v.clone() for k, v in table.state_dict().items()} for table in (averaged, plain)]
    label, idx = torch.tensor(label), torch.tensor([0])
    for write in (
        lambda: plain.assign_all(label),
        lambda: plain.write(idx, label),
        lambda: averaged.write(idx, label, 2),
    ):
        with pytest.raises(ValueError, match=message):
            write()
    for state, table in zip(before, (averaged, plain), strict=True):
        assert all(torch.equal(value, state[k]) for k, value in table.state_dict().items())


@pytest.mark.parametrize(
    ('idx', 'message'),
    [
        ([-1], 'sample_idx runs from -1 to -1, but the label table has 6 samples'),
        ([6], 'sample_idx runs from 6 to 6'),
        ([1.0], 'Indices must be integers'),
        ([True, False, False, True, False, False], 'torch.bool'),
        ([[1]], r'shape \(1, 1\)'),
    ],
)
def test_indices_that_count_from_the_end_or_mask_are_refused(idx, message):
    idx = torch.tensor(idx)
    for table in (PseudoLabels(6, 4), AveragedPseudoLabels(6, 4)):
        with pytest.raises(ValueError, match=message):
            table.read(idx)
        write = (lambda *a, table=table: table.write(*a, 1)) if hasattr(table, 'older') else None
        with pytest.raises(ValueError, match=message):
            (write or table.write)(idx, torch.zeros(idx.shape, dtype=torch.int64))


@pytest.mark.parametrize('dtype', [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_indices_and_labels_of_any_integer_type_are_taken(dtype):
    table = PseudoLabels(6, 4)
    table.write(torch.tensor([1, 4], dtype=dtype), torch.tensor([3, 0], dtype=dtype))
    assert table.read(torch.tensor([0, 1, 4], dtype=dtype)).tolist() == [-1, 3, 0]


def test_on_an_accelerator_nothing_in_a_step_waits_for_a_value():
    """Tensors on 'meta' have no values: whoever asks for one fails."""
    idx, label = torch.arange(6, device='meta'), torch.zeros(6, dtype=torch.int64, device='meta')
    plain, averaged = (kind(9, 4).to('meta') for kind in (PseudoLabels, AveragedPseudoLabels))
    plain.read(idx), plain.write(idx, label), plain.assign_all(label.new_zeros(9))
    averaged.write(idx, label, 2), averaged.read(idx)
    with pytest.raises(ValueError, match='float32'):
        plain.write(idx, label.float())


@pytest.mark.gpu
def test_on_a_gpu_the_device_stops_at_a_label_that_would_wrap():
    """In a process of its own, whose GPU is not usable any more."""
    code = (
        'import torch; from mmcoke.clustering import PseudoLabels; t = PseudoLabels(6, 4).cuda();'
        'i = torch.arange(1).cuda(); t.write(i, i + 257); torch.cuda.synchronize()'
    )
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert run.returncode
    assert 'assert' in run.stderr
