"""Sinkhorn: marginals, limits, and many processes as one."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from children import start_processes
from mmengine.dist import all_gather, get_rank
from scipy.optimize import linprog

from mmcoke.clustering import sinkhorn


def scores(*shape, seed=0):
    """Similarities as of unit vectors."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_two_by_two_by_hand():
    """exp(scores / T) = [[2, 1], [1, 1]]; columns by 3 and 2, then rows by 7/6 and 5/6."""
    one = torch.tensor([[2.0, 1.0], [1.0, 1.0]]).log() * 0.05
    expected = torch.tensor([[4 / 7, 3 / 7], [2 / 5, 3 / 5]])
    torch.testing.assert_close(sinkhorn(one, num_iters=1), expected)
    # At the fixed point rows and columns sum to 1 and ad / bc is still 2: a = d = r / (1 + r).
    a = 2**0.5 / (1 + 2**0.5)
    expected = torch.tensor([[a, 1 - a], [1 - a, a]])
    torch.testing.assert_close(sinkhorn(one, num_iters=100), expected)


@pytest.mark.parametrize('num_iters', [1, 3, 200])
@pytest.mark.parametrize('temperature', [0.01, 0.05, 1.0])
def test_rows_sum_to_one_and_columns_tend_to_equal_shares(num_iters, temperature):
    plan = sinkhorn(scores(40, 8), temperature=temperature, num_iters=num_iters)
    assert (plan >= 0).all()
    torch.testing.assert_close(plan.sum(1), torch.ones(40))
    if num_iters == 200:
        torch.testing.assert_close(plan.sum(0), torch.full((8,), 5.0), atol=0.1, rtol=0)


def test_equal_scores_are_shared_evenly_whatever_is_added_to_a_row_or_a_column():
    torch.testing.assert_close(sinkhorn(torch.full((6, 4), 0.7)), torch.full((6, 4), 0.25))
    rows, columns = scores(6, 1, seed=1), scores(1, 4, seed=2)
    torch.testing.assert_close(
        sinkhorn(rows + columns), torch.full((6, 4), 0.25), atol=1e-5, rtol=0
    )


def test_at_a_small_temperature_it_is_the_optimal_plan_of_equal_shares():
    score = scores(12, 3)
    plan = sinkhorn(score, temperature=0.002, num_iters=5000)
    rows = np.kron(np.eye(12), np.ones((1, 3)))
    columns = np.kron(np.ones((1, 12)), np.eye(3))
    best = linprog(
        -score.double().flatten().numpy(),
        A_eq=np.vstack([rows, columns]),
        b_eq=[1] * 12 + [4] * 3,
    )
    exact = torch.tensor(best.x).view(12, 3)
    assert sorted(exact.unique().tolist()) == [0, 1]  # an assignment, four samples each
    assert torch.equal(plan.argmax(1), exact.argmax(1))
    assert not torch.equal(score.argmax(1), exact.argmax(1))  # else nothing was at stake
    torch.testing.assert_close(plan.double(), exact, atol=0.02, rtol=0)


@pytest.mark.parametrize('temperature', [0.01, 1e-4])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_nothing_overflows_or_vanishes(temperature, dtype):
    """exp(100) is no float32, and a column whose scores are all low would be 0 / 0."""
    score = scores(64, 8).to(dtype)
    score[:, 3] = -1
    plan = sinkhorn(score, temperature=temperature, num_iters=50)
    assert plan.dtype == torch.float32
    assert plan.isfinite().all()
    torch.testing.assert_close(plan.sum(1), torch.ones(64))
    assert plan.sum(0)[3] > 1  # 8 in the end


def test_several_matrices_at_once_are_each_on_its_own():
    score = scores(2, 20, 5)
    both = sinkhorn(score)
    for number in range(2):
        torch.testing.assert_close(both[number], sinkhorn(score[number]))


def test_no_gradient_passes():
    assert not sinkhorn(scores(4, 2).requires_grad_()).requires_grad


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        (dict(temperature=0.0), 'temperature must be above 0'),
        (dict(temperature=float('nan')), 'temperature must be a finite number'),
        (dict(num_iters=0), 'num_iters must be at least 1'),
    ],
)
def test_settings_out_of_range_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        sinkhorn(scores(4, 2), **options)


# ---- processes

ALL = scores(32, 4) + torch.tensor([0.3, 0.0, 0.0, 0.0])


def codes(rank, world_size, folder):
    """Own rows of the plan of all rows, and what mmpretrain gives; saved."""
    from mmpretrain.models.losses.swav_loss import distributed_sinkhorn

    if world_size > 1:
        store = f'file://{folder}/store{world_size}'
        dist.init_process_group('gloo', store, rank=rank, world_size=world_size)
    own = ALL.chunk(world_size)[rank]
    gathered = torch.cat(all_gather(own))
    rows = slice(get_rank() * len(own), (get_rank() + 1) * len(own))
    ours = sinkhorn(gathered)[rows]
    theirs = distributed_sinkhorn(own, 3, world_size, 0.05)
    torch.save((ours, theirs), f'{folder}/world{world_size}_rank{rank}.pth')
    if world_size > 1:
        dist.destroy_process_group()


def run_processes(world_size, folder):
    """Plans of all rows, put together from the processes: ours, mmpretrain's."""
    if world_size == 1:
        codes(0, 1, folder)
    else:
        start_processes(codes, (world_size, folder), world_size)
    files = [f'{folder}/world{world_size}_rank{rank}.pth' for rank in range(world_size)]
    return [torch.cat(plans) for plans in zip(*map(torch.load, files), strict=True)]


@pytest.mark.parametrize('world_size', [2, 4])
def test_many_processes_compute_what_one_does_where_mmpretrain_does_not(world_size, tmp_path):
    one, theirs = run_processes(1, str(tmp_path))
    torch.testing.assert_close(one, theirs)  # on one process both are right
    many, their_many = run_processes(world_size, str(tmp_path))
    assert torch.equal(many, one)
    assert (their_many - theirs).abs().max() > 0.05
