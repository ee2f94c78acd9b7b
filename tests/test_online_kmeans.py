import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch.nn.functional import normalize

from mmcoke.clustering import CoKeLabeler, OnlineConstrainedKMeans


def stream(num_samples=400, dim=8, seed=0, spread=0.1):
    """Unit vectors around one direction: without a constraint, most clusters would starve."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num_samples, dim, generator=generator) * spread
    x[:, 0] += 1
    return normalize(x, dim=1)


def test_assignment_adds_the_dual_to_the_similarity():
    kmeans = OnlineConstrainedKMeans(2, 2)
    kmeans.running.copy_(torch.eye(2))
    x = torch.tensor([[0.8, 0.6]])
    assert kmeans.assign(x).tolist() == [0]
    kmeans.dual.copy_(torch.tensor([0.0, 0.3]))
    assert kmeans.assign(x).tolist() == [1]


def test_dual_step_by_hand():
    kmeans = OnlineConstrainedKMeans(2, 2, min_ratio=0.4, dual_lr=1.0)
    x = torch.eye(2)[[0, 0, 0, 1]]
    kmeans.update(x, torch.tensor([0, 0, 0, 0]))
    # 0: max(0, 0 - (1 - 0.2)); 1: 0 - (0 - 0.2)
    torch.testing.assert_close(kmeans.dual, torch.tensor([0.0, 0.2]))
    kmeans.update(x, torch.tensor([0, 0, 0, 1]))
    torch.testing.assert_close(kmeans.dual, torch.tensor([0.0, 0.15]))


def test_balanced_duals_may_be_negative():
    kmeans = OnlineConstrainedKMeans(2, 2, min_ratio=1.0, dual_lr=1.0)
    kmeans.update(torch.eye(2), torch.tensor([0, 0]))
    torch.testing.assert_close(kmeans.dual, torch.tensor([-0.5, 0.5]))


def test_center_step_by_hand():
    kmeans = OnlineConstrainedKMeans(2, 2)
    start = kmeans.running[1].clone()
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    kmeans.update(x, torch.tensor([0, 0, 0]))
    torch.testing.assert_close(kmeans.running[0], torch.tensor([1.0, 2.0]) / math.sqrt(5))
    # count 3 of a unit vector, and one more
    kmeans.update(x[:1], torch.tensor([0]))
    mean = 3 * torch.tensor([1.0, 2.0]) / math.sqrt(5) + x[0]
    torch.testing.assert_close(kmeans.running[0], mean / mean.norm())
    assert torch.equal(kmeans.running[1], start)
    assert kmeans.count.tolist() == [4, 0]


def test_centers_are_published_at_the_end_of_the_epoch_and_counts_reset():
    kmeans = OnlineConstrainedKMeans(3, 4)
    before = kmeans.centers.clone()
    kmeans.set_epoch(0)
    x = stream(10, 4)
    kmeans.update(x, kmeans.assign(x))
    assert torch.equal(kmeans.centers, before)
    running = kmeans.running.clone()
    kmeans.end_epoch()
    assert torch.equal(kmeans.centers, running)
    assert kmeans.count.tolist() == [0, 0, 0]


def test_stage_two_averages_the_centers_over_epochs():
    kmeans = OnlineConstrainedKMeans(1, 2, average_from_epoch=0)
    for epoch, x in enumerate(torch.eye(2)[[0, 1]]):
        kmeans.set_epoch(epoch)
        kmeans.update(x[None], torch.tensor([0]))
        kmeans.end_epoch()
    torch.testing.assert_close(kmeans.centers, torch.full((1, 2), math.sqrt(0.5)))


def test_update_does_not_depend_on_the_order_of_the_batch():
    x, order = stream(64), torch.randperm(64)
    one, other = (
        OnlineConstrainedKMeans(6, 8, dual_lr=1.0),
        OnlineConstrainedKMeans(6, 8, dual_lr=1.0),
    )
    label = one.assign(x)
    one.update(x, label)
    other.update(x[order], label[order])
    assert torch.equal(one.dual, other.dual)
    torch.testing.assert_close(one.running, other.running)


@pytest.mark.parametrize('min_ratio', [0.4, 0.8])
def test_sizes_respect_the_lower_bound_up_to_the_growth_of_the_dual(min_ratio):
    """size / A >= min_ratio / K - growth of the dual / (dual_lr * batches): docs/methods/coke.md"""
    num_clusters, batch = 10, 40
    kmeans = OnlineConstrainedKMeans(num_clusters, 8, min_ratio=min_ratio, dual_lr=2.0)
    x = stream()
    smallest, generator = [], torch.Generator().manual_seed(0)
    for epoch in range(8):
        kmeans.set_epoch(epoch)
        before = kmeans.dual.clone()
        for rows in torch.randperm(len(x), generator=generator).split(batch):
            kmeans.update(x[rows], kmeans.assign(x[rows]))
        slack = (kmeans.dual - before) / (2.0 * len(x) / batch)
        assert (kmeans.count / len(x) >= min_ratio / num_clusters - slack - 1e-5).all()
        smallest.append(kmeans.count.min().item())
        kmeans.end_epoch()
    assert min(smallest[3:]) >= 0.7 * min_ratio * len(x) / num_clusters


def test_without_the_constraint_clusters_starve():
    kmeans = OnlineConstrainedKMeans(10, 8, min_ratio=0.4, dual_lr=0.0)
    x = stream()
    for epoch in range(4):
        kmeans.set_epoch(epoch)
        for rows in x.split(40):
            kmeans.update(rows, kmeans.assign(rows))
        smallest = kmeans.count.min().item()
        kmeans.end_epoch()
    assert smallest < 0.4 * len(x) / 10 / 4


def test_the_dual_of_a_starved_cluster_rises_until_it_is_hit():
    kmeans = OnlineConstrainedKMeans(2, 2, min_ratio=0.5, dual_lr=1.0)
    kmeans.running.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    x = torch.tensor([[1.0, 0.0]]).repeat(4, 1)
    duals = []
    while not (label := kmeans.assign(x)).any():
        kmeans.update(x, label)
        duals.append(kmeans.dual[1].item())
    assert len(duals) == 9  # 0.25 a batch, until it exceeds 2, the most that similarities differ by
    assert all(b > a for a, b in itertools.pairwise(duals))


def test_first_centers_come_from_their_own_seed():
    torch.manual_seed(1)
    one = OnlineConstrainedKMeans(5, 4, seed=3)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(one.centers, OnlineConstrainedKMeans(5, 4, seed=3).centers)
    assert not torch.equal(one.centers, OnlineConstrainedKMeans(5, 4, seed=4).centers)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize('min_ratio', [0.0, -0.1, 1.1, float('nan')])
def test_min_ratio_outside_its_range_is_refused(min_ratio):
    with pytest.raises(ValueError, match='min_ratio'):
        OnlineConstrainedKMeans(3, 4, min_ratio=min_ratio)


def test_an_epoch_without_any_batch_is_refused():
    kmeans = OnlineConstrainedKMeans(3, 4)
    kmeans.set_epoch(0)
    with pytest.raises(ValueError, match='without any batch'):
        kmeans.end_epoch()


def test_centers_that_are_not_finite_are_not_published():
    kmeans = OnlineConstrainedKMeans(3, 4)
    before = kmeans.centers.clone()
    kmeans.update(torch.full((2, 4), float('nan')), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match='not finite'):
        kmeans.end_epoch()
    assert torch.equal(kmeans.centers, before)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_clustering_stays_in_float32_under_autocast(dtype):
    x, idx = stream(64), torch.arange(64)
    plain, mixed = (CoKeLabeler(64, 6, 8, dual_lr=1.0) for _ in range(2))
    products = []

    class Spy(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if func in (torch.addmm, torch.Tensor.matmul):
                products.append(result.dtype)
            return result

    target = plain.step(x, idx)
    with torch.autocast('cpu', dtype), Spy():
        assert torch.equal(mixed.step(x, idx), target)
    assert products and set(products) == {torch.float32}
    for name, buffer in plain.state_dict().items():
        assert torch.equal(buffer, mixed.state_dict()[name]), name


@pytest.mark.parametrize(
    ('label', 'message'),
    [([0, 3], 'label runs from 0 to 3'), ([-1, 0], 'from -1'), ([0], 'shape'), ([0.0, 1.0], 'int')],
)
def test_labels_that_are_no_clusters_change_nothing(label, message):
    kmeans = OnlineConstrainedKMeans(3, 4)
    before = {name: value.clone() for name, value in kmeans.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        kmeans.update(torch.eye(4)[:2], torch.tensor(label))
    with pytest.raises(ValueError, match=r'\(N, 4\)'):
        kmeans.assign(torch.eye(3))
    assert all(torch.equal(value, before[name]) for name, value in kmeans.state_dict().items())


def best_similarity(similarity_AK, bound):
    """Mean similarity of the best assignment with at least this share in each cluster."""
    number, num_clusters = similarity_AK.shape
    found = linprog(
        -similarity_AK.ravel(),
        A_eq=np.kron(np.eye(number), np.ones((1, num_clusters))),
        b_eq=np.ones(number),
        A_ub=-np.kron(np.ones((1, number)), np.eye(num_clusters)),
        b_ub=[-bound * number] * num_clusters,
    )
    return -found.fun / number


def passes_with_fixed_centers(x, steps, num_passes, batch=20, seed=0):
    """Mean similarity and sizes of each pass, of centers that the labels hardly suit."""
    kmeans = OnlineConstrainedKMeans(6, 8, min_ratio=0.8, average_from_epoch=0, seed=3)
    kmeans.set_epoch(0)  # of stage 2: its centers stay until it is ended
    generator, found = torch.Generator().manual_seed(seed), []
    for _ in range(num_passes):
        label = torch.empty(len(x), dtype=torch.int64)
        for rows in torch.randperm(len(x), generator=generator).split(batch):
            kmeans.dual_lr = next(steps)
            label[rows] = kmeans.assign(x[rows])
            kmeans.update(x[rows], label[rows])
        similarity = (x * kmeans.centers[label]).sum(1).mean().item()
        found.append((similarity, torch.bincount(label, minlength=6) / len(x)))
    return found, kmeans.centers


def test_with_fixed_centers_and_falling_steps_labels_approach_the_best_that_hold_the_bound():
    """docs/theory.md; exact by linear programming."""
    x = stream()[:300]
    steps = (1.0 / t**0.5 for t in itertools.count(1))
    found, centers = passes_with_fixed_centers(x, steps, 60)
    similarity = (x @ centers.T).double().numpy()
    best, nearest = best_similarity(similarity, 0.8 / 6), similarity.max(1).mean()
    missing = [(0.8 / 6 - share).clamp(min=0).sum().item() for _, share in found]
    assert nearest - best > 0.01  # the bound matters
    assert missing[-1] < 0.02 < 0.05 < missing[0]
    assert abs(found[-1][0] - best) < 0.05 * (nearest - best)


def test_a_constant_step_leaves_a_gap_that_grows_with_it():
    x = stream()[:300]
    similarities = []
    for step in (0.1, 3.0):
        found, centers = passes_with_fixed_centers(x, itertools.repeat(step), 40)
        similarities.append(np.mean([similarity for similarity, _ in found[20:]]))
    best = best_similarity((x @ centers.T).double().numpy(), 0.8 / 6)
    assert best - similarities[0] < 0.1 * (best - similarities[1])
