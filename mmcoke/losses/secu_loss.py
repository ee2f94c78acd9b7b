"""The loss of SeCu's features (Qian, ICCV 2023)."""

from collections.abc import Sequence

from torch import Tensor

from .coke_loss import cross_entropies


def secu_loss(
    x_BnD: Tensor,
    centers: Sequence[Tensor],
    targets: Sequence[Tensor],
    *,
    temperature: float,
    label_weight: float = 0.2,
    chunk_size: int | None = None,
) -> Tensor:
    """Each of two views is classified by the label and by the softmax of the other view.

    ``mean_v a CE(x_v c / T, target) + (1 - a) CE(x_v c / T, softmax(x_other c / T))``, a mean over
    samples and clusterings as well; no gradient comes through the softmax. With predictions, as
    published for ImageNet, these are classified likewise, by the other view's projection.

    Args:
        x_BnD: L2-normalized projections of two views (2, n, D), or also the predictions of both,
            behind them (4, n, D).
        centers: for each clustering, published centers (K, D).
        targets: for each clustering, labels int64 (n,).
        temperature: T.
        label_weight: a in [0, 1]; 0.2 as published.
        chunk_size: see :func:`cross_entropies`.

    Returns:
        A float32 scalar.
    """
    return cross_entropies(
        x_BnD,
        centers,
        targets,
        temperature=temperature,
        references=[(1,), (0,)] * (len(x_BnD) // 2),
        label_weight=label_weight,
        chunk_size=chunk_size,
    ).mean()
