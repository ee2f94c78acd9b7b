"""The loss of SwAV (Caron et al., NeurIPS 2020)."""

from collections.abc import Sequence

import torch
from torch import Tensor


def swapped_prediction_loss(
    scores: Sequence[Tensor], code_VnK: Tensor, *, temperature: float
) -> Tensor:
    """Each view predicts the codes of the other full-size views.

    ``mean of -sum_k code_c[k] log softmax(scores_v / T)[k]`` over all codes c, views v other than
    c, and samples. Computed in float32, also under autocast.

    Args:
        scores: of each view, similarities to the prototypes (n, K); full-size views first.
        code_VnK: for each full-size view, soft assignments (n, K), without gradient.
        temperature: T of the softmax.

    Returns:
        The loss, a float32 scalar.
    """
    num_pairs = len(code_VnK) * (len(scores) - 1)
    total_nK = code_VnK.sum(0)
    loss = 0.0
    with torch.autocast(code_VnK.device.type, enabled=False):
        for view, score_nK in enumerate(scores):
            logp_nK = (score_nK.float() / temperature).log_softmax(1)
            is_coded = view < len(code_VnK)
            target_nK = total_nK - code_VnK[view] if is_coded else total_nK
            loss = loss - (target_nK * logp_nK).sum(1).mean()
    return loss / num_pairs
