"""The losses of CoKe."""

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
    centers: list[Tensor],
    targets: list[Tensor],
    *,
    temperature: float,
    prediction_weight: float = 1.0,
) -> Tensor:
    """The single-view loss of CoKe (Qian et al., CVPR 2022), mean over the heads.

    ``mean_j w CE(prediction c_j / T, target_j) + (1 - w) CE(projection c_j / T, target_j)``

    Args:
        projection_nD: L2-normalized projections (n, D).
        prediction_nD: L2-normalized predictions (n, D).
        centers: for each head, published centers (K, D).
        targets: for each head, labels int64 (n,) or soft targets (n, K).
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
