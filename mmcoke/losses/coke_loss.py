"""The losses of CoKe (Qian et al., CVPR 2022)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


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

    Returns:
        The loss, a float32 scalar.
    """
    branches = [(prediction_weight, prediction_nD), (1 - prediction_weight, projection_nD)]
    losses = [
        weight * cross_entropy(cluster_logits(x_nD, centers_KD, temperature), target)
        for centers_KD, target in zip(centers, targets, strict=True)
        for weight, x_nD in branches
        if weight
    ]
    return torch.stack(losses).sum() / len(centers)


def multi_view_coke_loss(
    projections: Sequence[Tensor],
    predictions: Sequence[Tensor],
    centers: Sequence[Tensor],
    targets: Sequence[Tensor],
    *,
    temperature: float,
    prediction_weight: float = 0.5,
    label_weight: float = 0.2,
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

    Returns:
        ``loss_full``, and ``loss_small`` if there are small crops: float32 scalars.
    """
    soft = [
        [cluster_logits(x_nD.detach(), c_KD, temperature).softmax(1) for c_KD in centers]
        for x_nD in projections[:2]
    ]
    mean = [(one + other) / 2 for one, other in zip(*soft, strict=True)]
    references = [soft[1], soft[0], *[mean] * (len(projections) - 2)]

    losses = [
        # Cross-entropy is linear in the target: one classification for both parts.
        coke_loss(
            projection,
            prediction,
            centers,
            [
                blend(goal, soft, label_weight)
                for goal, soft in zip(targets, reference, strict=True)
            ],
            temperature=temperature,
            prediction_weight=prediction_weight,
        )
        for projection, prediction, reference in zip(
            projections, predictions, references, strict=True
        )
    ]
    result = dict(loss_full=torch.stack(losses[:2]).mean())
    if losses[2:]:
        result['loss_small'] = torch.stack(losses[2:]).mean()
    return result


def blend(target: Tensor, soft_nK: Tensor, label_weight: float) -> Tensor:
    """``a target + (1 - a) soft``, for labels int64 (n,) or soft targets (n, K)."""
    if target.ndim == 2:
        return label_weight * target + (1 - label_weight) * soft_nK
    share_n1 = torch.full_like(soft_nK[:, :1], label_weight)
    return ((1 - label_weight) * soft_nK).scatter_add_(1, target[:, None], share_n1)
