"""Distances to the centers of clusters as features."""

import torch
from torch import Tensor

from .lloyd import MIN_ROWS, SCORES_PER_CHUNK


@torch.no_grad()
def triangle(x_AD: Tensor, centers_KD: Tensor) -> Tensor:
    """The triangle encoding ``max(0, mean(z) - z_k)``, z_k the distance of a sample to center k.

    Coates, Lee and Ng (AISTATS 2011): a soft assignment, in which about half of the numbers are 0
    and the nearest centers have the largest. With one center all are 0.

    Args:
        x_AD: (A, D), of any type; encoded in float32, in chunks. A row that is not finite gives
            NaN. Squares of the numbers must be far from the limits of float32.
        centers_KD: (K, D), on the same device.

    Returns:
        float32 (A, K), ≥ 0, on that device.

    Raises:
        ValueError: if samples and centers are not tables of the same width.
    """
    if x_AD.ndim != 2 or centers_KD.ndim != 2 or x_AD.shape[1] != centers_KD.shape[1]:
        raise ValueError(
            f'The centers must be (K, D), as wide as the samples (A, D), but are '
            f'{tuple(centers_KD.shape)} for samples {tuple(x_AD.shape)}.'
        )
    centers_KD = centers_KD.float()
    # Distances do not depend on the origin, but their rounding does: near the centers it is least.
    origin_D = centers_KD.mean(0)
    centers_KD = centers_KD - origin_D
    square_K = centers_KD.square().sum(1)
    code_AK = centers_KD.new_empty(len(x_AD), len(centers_KD))
    size = max(MIN_ROWS, SCORES_PER_CHUNK[x_AD.device.type] // max(1, len(centers_KD)))
    for x_nD, code_nK in zip(x_AD.split(size), code_AK.split(size), strict=True):
        x_nD = x_nD.float() - origin_D
        torch.addmm(square_K, x_nD, centers_KD.T, alpha=-2, out=code_nK)
        z_nK = code_nK.add_(x_nD.square().sum(1, keepdim=True)).clamp_(min=0).sqrt_()
        z_nK.neg_().sub_(z_nK.mean(1, keepdim=True)).clamp_(min=0)
    return code_AK
