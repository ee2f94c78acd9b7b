"""Linear SVMs with squared hinge loss, many at once, from the inner products of the samples.

The solution is that of scikit-learn's ``LinearSVC`` (liblinear; squared hinge, L2), which depends
on the inner products alone. So the samples themselves are used once, and all costs, folds and
classes share one matrix of products.

Shapes: A samples, M problems, C costs.
"""

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

TOLERANCE = 1e-6
"""How far a margin may be from its condition of optimality; liblinear's usual ``tol`` is 1e-4."""

STIFF_COST = 0.5
"""From this cost on (for features of norm 1) conjugate gradients are slow, but only a part of the
samples enters the equations: these are factorized."""

MAX_STEPS = 200
"""Of Newton's method; ten are usual."""

CONJUGATE_STEPS = 25
"""Within one step of Newton's method, at most."""

TINY = torch.finfo(torch.float64).tiny


def kernel_svms(
    kernel_AA: Tensor, sign_A: Tensor, weight_AM: Tensor, costs: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Solve M weighted linear SVMs at each cost.

    Each minimizes ``|w|² / 2 + cost Σ weight_i max(0, 1 - sign_i w·x_i)²``; ``w = Σ coef_i x_i``.

    Args:
        kernel_AA: ``x_i·x_j`` in float64; an intercept is a feature of 1 in each sample.
        sign_A: class, 1 or -1, in float64.
        weight_AM: >= 0, float64; 0 leaves a sample out, so folds are columns.
        costs: > 0, in any order.

    Returns:
        Coefficients and scores ``w·x`` of all samples, those left out included: (C, A, M) each.

    Warns:
        ConvergenceWarning: if a problem is not solved to :data:`TOLERANCE`.
    """
    order = sorted(range(len(costs)), key=lambda i: costs[i])
    easy = [i for i in order if costs[i] < STIFF_COST]
    zero = torch.zeros_like(weight_AM)
    solved, last = {}, (zero, zero)
    if easy:  # in one batch: one product of matrices costs little more than one with a vector
        bound = torch.cat([2 * costs[i] * weight_AM for i in easy], 1)
        start = (torch.zeros_like(bound), torch.zeros_like(bound))
        batch = newton(kernel_AA, sign_A[:, None], bound, start, conjugate_step)
        parts = zip(*(x.split(weight_AM.shape[1], 1) for x in batch), strict=True)
        solved = dict(zip(easy, parts, strict=True))
        last = solved[easy[-1]]
    for i in order[len(easy) :]:  # each from the one before it: few samples enter or leave
        bound = 2 * costs[i] * weight_AM
        last = solved[i] = newton(kernel_AA, sign_A[:, None], bound, last, direct_step)
    coef, score = zip(*(solved[i] for i in range(len(costs))), strict=True)
    return torch.stack(coef), torch.stack(score)


def newton(
    kernel: Tensor, sign: Tensor, bound: Tensor, start: tuple[Tensor, Tensor], step: Callable
) -> tuple[Tensor, Tensor]:
    """Newton's method with exact line search on the piecewise quadratic objective.

    Keerthi and DeCoste, JMLR 2005; Chapelle, Neural Computation 2007. At the optimum
    ``coef = bound * sign * max(0, 1 - sign * score)`` with ``score = kernel @ coef``.

    Args:
        kernel: (A, A).
        sign: (A, 1).
        bound: twice cost times weight (A, M).
        start: coefficients, 0 where ``bound`` is, and their scores (A, M).
        step: :func:`conjugate_step` or :func:`direct_step`.

    Returns:
        Coefficients and scores (A, M).
    """
    coef, score = (x.clone() for x in start)
    inverse = torch.where(bound > 0, 1 / bound, 0)
    for _ in range(MAX_STEPS):
        slack = (1 - sign * score).clamp(min=0)
        error = ((bound * sign * slack - coef).abs() * inverse).amax(0)
        todo = (error > TOLERANCE).nonzero()[:, 0]
        if not len(todo):
            return coef, score
        old, now = coef[:, todo], score[:, todo]
        active = (slack[:, todo] > 0) & (bound[:, todo] > 0)
        goal = (0.05 * error[todo]).clamp(min=TOLERANCE / 3)
        new, there = step(kernel, sign, active, inverse[:, todo], old, goal)
        t = line_search(sign, bound[:, todo], old, now, new - old, there - now)
        coef[:, todo], score[:, todo] = torch.lerp(old, new, t), torch.lerp(now, there, t)
    from sklearn.exceptions import ConvergenceWarning

    warnings.warn(
        f'{len(todo)} of {len(error)} SVMs have not converged: a margin is {error.max():.1e} off.',
        ConvergenceWarning,
        stacklevel=3,
    )
    return coef, score


def conjugate_step(
    kernel: Tensor, sign: Tensor, active: Tensor, inverse: Tensor, coef: Tensor, goal: Tensor
) -> tuple[Tensor, Tensor]:
    """Where the objective is least if the samples with a loss stay the same, approximately.

    With P the samples with a loss, ``(kernel_PP + diag(inverse_P)) coef_P = sign_P``; all other
    coefficients are 0. Conjugate gradients solve it, scaled so that the diagonal is 1.

    Args:
        active: which samples have a loss (A, M).
        inverse: 1 / bound, 0 where the bound is 0 (A, M).
        coef: to start from (A, M).
        goal: error at which a problem is solved well enough (M,).

    Returns:
        Coefficients and scores (A, M).
    """
    unscale = (inverse * active).sqrt()
    scale = torch.where(active, 1 / unscale, 0)
    solution = coef * unscale
    score = kernel @ (scale * solution)
    residual = scale * (sign - score) - solution
    direction, norm = residual, residual.square().sum(0)
    for _ in range(CONJUGATE_STEPS):
        if ((residual * unscale).abs().amax(0) <= goal).all():
            break
        change = kernel @ (scale * direction)
        image = direction + scale * change
        length = norm / (direction * image).sum(0).clamp(min=TINY)
        solution, score = solution + length * direction, score + length * change
        residual = residual - length * image
        norm, before = residual.square().sum(0), norm
        direction = residual + norm / before.clamp(min=TINY) * direction
    return scale * solution, score


def direct_step(
    kernel: Tensor, sign: Tensor, active: Tensor, inverse: Tensor, coef: Tensor, goal: Tensor
) -> tuple[Tensor, Tensor]:
    """What :func:`conjugate_step` approximates, exactly."""
    new = torch.zeros_like(coef)
    for j in range(active.shape[1]):
        rows = active[:, j].nonzero()[:, 0]
        matrix = kernel[rows[:, None], rows]
        matrix.diagonal().add_(inverse[rows, j])
        new[rows, j] = torch.cholesky_solve(sign[rows], torch.linalg.cholesky(matrix))[:, 0]
    return new, kernel @ new


def line_search(
    sign: Tensor, bound: Tensor, coef: Tensor, score: Tensor, d_coef: Tensor, d_score: Tensor
) -> Tensor:
    """The t in [0, 1] with the least objective at ``coef + t * d_coef`` (M,)."""

    def slope(t: Tensor) -> Tensor:
        slack = (1 - sign * (score + t * d_score)).clamp(min=0)
        # First the difference, which vanishes at the optimum: the sums of its parts do not.
        return ((coef + t * d_coef - bound * sign * slack) * d_score).sum(0)

    low, high = coef.new_zeros(coef.shape[1]), coef.new_ones(coef.shape[1])
    whole = slope(high) <= 0
    if not whole.all():
        for _ in range(40):
            middle = (low + high) / 2
            falls = slope(middle) < 0
            low, high = torch.where(falls, middle, low), torch.where(falls, high, middle)
    return torch.where(whole, 1, low)
