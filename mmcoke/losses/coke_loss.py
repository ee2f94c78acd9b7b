"""The losses of CoKe (Qian et al., CVPR 2022)."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def cluster_logits(x_nD: Tensor, centers_KD: Tensor, temperature: float) -> Tensor:
    """Cosine similarities to the centers over the temperature, float32 (n, K), outside autocast.

    Args:
        x_nD: L2-normalized features (n, D).
        centers_KD: L2-normalized centers (K, D), without gradient.
        temperature: positive.
    """
    with torch.autocast(x_nD.device.type, enabled=False):
        return x_nD.float() @ centers_KD.float().T / temperature


def coke_loss(
    projection_nD: Tensor,
    prediction_nD: Tensor,
    centers: Sequence[Tensor],
    targets: Sequence[Tensor],
    *,
    temperature: float,
    prediction_weight: float = 1.0,
    chunk_size: int | None = None,
) -> Tensor:
    """The loss of one view, mean over the clusterings.

    ``mean_j w CE(prediction c_j / T, target_j) + (1 - w) CE(projection c_j / T, target_j)``

    Args:
        projection_nD: L2-normalized projections (n, D).
        prediction_nD: L2-normalized predictions (n, D).
        centers: for each clustering, published centers (K, D).
        targets: for each clustering, labels int64 (n,) or soft targets (n, K).
        temperature: T.
        prediction_weight: w in [0, 1]; 1 in the published recipe.
        chunk_size: see :func:`cross_entropies`.

    Returns:
        The loss, a float32 scalar.
    """
    weights = [prediction_weight, 1 - prediction_weight]
    branches = zip(weights, [prediction_nD, projection_nD], strict=True)
    weights, used = zip(*[(w, x_nD) for w, x_nD in branches if w], strict=True)
    loss_B = cross_entropies(
        torch.stack(used), centers, targets, temperature=temperature, chunk_size=chunk_size
    )
    return weighted_sum(loss_B, weights)


def multi_view_coke_loss(
    projections: Sequence[Tensor],
    predictions: Sequence[Tensor],
    centers: Sequence[Tensor],
    targets: Sequence[Tensor],
    *,
    temperature: float,
    prediction_weight: float = 0.5,
    label_weight: float = 0.2,
    chunk_size: int | None = None,
    references: Sequence[Tensor] | None = None,
) -> dict[str, Tensor]:
    """The losses of two full-size views and any number of small crops, means over the clusterings.

    With p_v, the softmax of the projection logits of full-size view v (no gradient), a full-size
    view is classified by the label and by the other view's p::

        a CE(., target) + (1 - a) CE(., p_other)

    and a small crop by the label and by the mean of both::

        a CE(., target) + (1 - a) CE(., (p_0 + p_1) / 2)

    each for prediction (weight w) and projection (1 - w), averaged over the views of the kind.

    Args:
        projections: L2-normalized projections (n, D) of each view, the two full-size ones first.
        predictions: L2-normalized predictions (n, D), likewise.
        centers, targets, temperature: see :func:`coke_loss`.
        prediction_weight: w in [0, 1]; 0.5 in the published recipes.
        label_weight: a in [0, 1], share of the label; 0.2 in the published recipes.
        chunk_size: see :func:`cross_entropies`.
        references: L2-normalized projections (n, D) of the two full-size views by another network,
            whose softmax is p_v instead.

    Returns:
        ``loss_full``, and ``loss_small`` if there are small crops: float32 scalars.
    """
    views = len(projections)
    others = [(1,), (0,), *[(0, 1)] * (views - 2)]
    if prediction_weight == 1:  # the projections are references alone
        projections = [x_nD.detach() for x_nD in projections]
    # Those of another network come first, so that they have the numbers of the first views.
    more = [] if references is None else [x_nD.detach() for x_nD in references]
    loss_B = cross_entropies(
        torch.stack([*more, *projections, *predictions]),
        centers,
        targets,
        temperature=temperature,
        references=[*others[: len(more)], *others, *others],
        label_weight=label_weight,
        chunk_size=chunk_size,
    )[len(more) :]
    weights = 1 - prediction_weight, prediction_weight
    loss_V = sum(w * loss for w, loss in zip(weights, loss_B.split(views), strict=True))
    result = dict(loss_full=loss_V[:2].mean())
    if views > 2:
        result['loss_small'] = loss_V[2:].mean()
    return result


def weighted_sum(loss_B: Tensor, weights: Sequence[float]) -> Tensor:
    """Sum of the losses by weights on the host, without a copy to the device."""
    return sum(w * loss for w, loss in zip(weights, loss_B.unbind(), strict=True))


def cross_entropies(
    x_BnD: Tensor,
    centers: Sequence[Tensor],
    targets: Sequence[Tensor],
    *,
    temperature: float,
    references: Sequence[tuple[int, ...]] | None = None,
    label_weight: float = 1.0,
    chunk_size: int | None = None,
) -> Tensor:
    """Cross-entropy of each branch, means over samples and clusterings, in one product.

    A branch is a view's projection or its prediction. Branch b is classified by
    ``a target + (1 - a) p``, where p is the mean of the softmax (no gradient) of the branches
    ``references[b]``. It computes what this does, in closed form and float32, also under autocast::

        for x_nD, refs in zip(x_BnD, references):
            for c_KD, target in zip(centers, targets):
                p = mean(cluster_logits(x_BnD[r].detach(), c_KD, T).softmax(1) for r in refs)
                loss += cross_entropy(cluster_logits(x_nD, c_KD, T), a * target + (1 - a) * p)

    Memory at its peak: 12 bytes per (branch, sample, clustering, cluster), where each of the
    clusterings takes as many clusters as the largest. Nothing but the gradient of x stays
    afterwards.

    Args:
        x_BnD: L2-normalized features of B branches (B, n, D).
        centers, targets, temperature: see :func:`coke_loss`.
        references: for each branch, the branches whose softmax is part of its target; None where
            labels are all of it.
        label_weight: a; 1 without references.
        chunk_size: samples, each with all its branches, that are computed at a time; None for all.

    Returns:
        float32 (B,).
    """
    with torch.autocast(x_BnD.device.type, enabled=False), torch.no_grad():
        place_HK, absent_HK = padding(tuple(map(len, centers)), x_BnD.device)
        centers_HKD = torch.cat(list(centers)).float()[place_HK]
        target = join_targets(targets, place_HK.shape[1])
    options = dict(references=references or (), label_weight=label_weight, temperature=temperature)
    return _CrossEntropies.apply(
        x_BnD, centers_HKD, absent_HK, target, chunk_size or x_BnD.shape[1], options
    )


@lru_cache(maxsize=32)
def padding(sizes: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """How clusterings of different sizes become one table, all as wide as the largest.

    Returns:
        Where each cluster is among all, int64 (H, K of the largest), and 0 where there is such a
        cluster, else as good as -inf: float32 of the same shape. Kept, so that no step sends them.
    """
    absent = torch.finfo(torch.float32).min / 4  # finite: 0 times it is 0
    place_HK = torch.zeros(len(sizes), max(sizes), dtype=torch.int64)
    absent_HK = torch.full(place_HK.shape, absent)
    for head, size in enumerate(sizes):
        place_HK[head, :size] = torch.arange(size) + sum(sizes[:head])
        absent_HK[head, :size] = 0
    return place_HK.to(device), absent_HK.to(device)


def join_targets(targets: Sequence[Tensor], num_clusters: int) -> Tensor:
    """Labels int64 (n, H), or soft targets float32 (n, H, K of the largest clustering)."""
    if all(target.ndim == 1 for target in targets):
        return torch.stack(list(targets), 1)
    soft = [dense(target, num_clusters) for target in targets]
    return torch.stack(soft, 1)


def dense(target: Tensor, num_clusters: int) -> Tensor:
    """Labels (n,) or soft targets (n, K) of a clustering as float32 (n, num_clusters)."""
    whole = torch.zeros(len(target), num_clusters, device=target.device)
    if target.ndim == 1:
        return whole.scatter_(1, target[:, None], 1.0)
    whole[:, : target.shape[1]] = target
    return whole


class _CrossEntropies(torch.autograd.Function):
    """See :func:`cross_entropies`. The gradient is computed along: softmax minus target."""

    @staticmethod
    def forward(
        ctx: Any,
        x_BnD: Tensor,
        centers_HKD: Tensor,
        absent_HK: Tensor,
        target: Tensor,
        chunk_size: int,
        options: dict,
    ) -> Tensor:
        with torch.autocast(x_BnD.device.type, enabled=False):
            chunks = zip(x_BnD.float().split(chunk_size, 1), target.split(chunk_size), strict=True)
            parts = [
                chunk_cross_entropies(x_BmD, centers_HKD, absent_HK, target, **options)
                for x_BmD, target in chunks
            ]
            loss_BnH, grad_BnD = (torch.cat(part, 1) for part in zip(*parts, strict=True))
        ctx.save_for_backward(grad_BnD)
        ctx.scale, ctx.dtype = 1 / (loss_BnH[0].numel() * options['temperature']), x_BnD.dtype
        return loss_BnH.mean((1, 2))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, loss_grad_B: Tensor) -> tuple:
        (grad_BnD,) = ctx.saved_tensors
        grad_BnD = grad_BnD * (loss_grad_B * ctx.scale)[:, None, None]
        return grad_BnD.to(ctx.dtype), *[None] * 5


def chunk_cross_entropies(
    x_BmD: Tensor,
    centers_HKD: Tensor,
    absent_HK: Tensor,
    target: Tensor,
    *,
    references: Sequence[tuple[int, ...]],
    label_weight: float,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Losses (B, m, H) of some samples, and the gradient of their sum, times T, by x (B, m, D)."""
    shape, centers_CD = (*x_BmD.shape[:2], *absent_HK.shape), centers_HKD.flatten(0, 1)
    x_RD = x_BmD.flatten(0, 1) / temperature
    logp = torch.addmm(absent_HK.flatten(), x_RD, centers_CD.T).view(shape).log_softmax(-1)
    p = logp.exp()
    soft_weight = 1 - label_weight
    grad = p.clone() if references else p
    if target.ndim == 2:
        place = target[..., None].expand(*shape[:3], 1)
        loss = -label_weight * logp.gather(3, place)[..., 0]
        grad.scatter_add_(3, place, grad.new_full((), -label_weight).expand(place.shape))
    else:
        loss = -label_weight * (target * logp).sum(-1)
        grad *= soft_weight + label_weight * target.sum(-1, keepdim=True)
        grad.sub_(target, alpha=label_weight)
    for b, others in enumerate(references):
        soft_mHK = sum(p[other] for other in others) / len(others)
        loss[b] -= soft_weight * (soft_mHK * logp[b]).sum(-1)
        grad[b].sub_(soft_mHK, alpha=soft_weight)
    return loss, (grad.view(len(x_RD), -1) @ centers_CD).view(x_BmD.shape)
