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
