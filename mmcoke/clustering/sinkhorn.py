"""Equal shares: the optimal-transport plan between samples and clusters, entropy-regularized."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from .settings import check_number


def sinkhorn(scores_NK: Tensor, *, temperature: float = 0.05, num_iters: int = 3) -> Tensor:
    """Soft assignments that give all clusters equal shares of the samples (Cuturi, NeurIPS 2013).

    The matrix ``exp(scores / temperature)`` is scaled: in turn, all columns (clusters) to the same
    sum, all rows (samples) to 1. So after any number of iterations rows sum to 1; the sums of the
    columns tend to N/K. With many iterations and a small temperature it is the assignment of
    greatest total score among those of equal shares.

    It is computed from the logarithms, in float32 and without gradient: nothing overflows or
    vanishes, whatever the temperature. It knows of no other process: give it the rows of all of
    them, in the same order, and take your own; then all processes have the same to the bit.

    Args:
        scores_NK: similarities of samples to clusters (N, K); or several such matrices
            (..., N, K), each on its own.
        temperature: weight of the entropy, positive; the larger, the more even are the rows.
        num_iters: 3 is usual for batches.

    Returns:
        float32, of the shape of the scores.

    Raises:
        ValueError: if the temperature is not positive, or there is no iteration.
    """
    check_number('temperature', temperature, '(0, inf)')
    check_number('num_iters', num_iters, '[1, inf)', whole=True)
    with torch.no_grad(), torch.autocast(scores_NK.device.type, enabled=False):
        logits_NK = scores_NK.float() / temperature
        row_N1 = logits_NK.new_zeros(())
        for _ in range(num_iters):
            column_1K = -(logits_NK + row_N1).logsumexp(-2, keepdim=True)
            row_N1 = -(logits_NK + column_1K).logsumexp(-1, keepdim=True)
        return (logits_NK + column_1K).softmax(-1)


def sinkhorn_columns(
    chunks: Callable[[], Iterable[Tensor]],
    num_clusters: int,
    *,
    temperature: float,
    num_iters: int,
    tolerance: float,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Tensor:
    """Scaling of the columns in :func:`sinkhorn`, for more samples than a matrix of scores fits.

    The scores come chunk by chunk, once in each iteration, and only the scaling is kept: the rows
    follow from it (a softmax), and so do the assignments.

    Args:
        chunks: gives the scores of all samples, float32 (m, K) at a time, in the same order.
        num_clusters: K.
        temperature, num_iters: see :func:`sinkhorn`.
        tolerance: the iterations end where the shares of the clusters differ from 1/K by this part
            of it, in the mean.
        progress: wraps the iterable of iterations, such as ``rich.progress.track``.

    Returns:
        float32 (K,), to be added to ``scores / temperature``.
    """
    column_K = torch.zeros(num_clusters)
    for _ in progress(range(num_iters)):
        total_K, num_samples = None, 0
        for score_mK in chunks():
            column_K = column_K.to(score_mK.device)
            logp_mK = (score_mK / temperature + column_K).log_softmax(1)
            part_K = logp_mK.logsumexp(0)
            total_K = part_K if total_K is None else torch.logaddexp(total_K, part_K)
            num_samples += len(score_mK)
        share_K = total_K.exp() * (num_clusters / num_samples)
        if (share_K - 1).abs().mean() <= tolerance:
            break
        column_K = column_K - total_K
        column_K -= column_K.mean()  # a constant means nothing, but would grow
    return column_K
