"""Linear classification of frozen features."""

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor


def linear_probe(
    x_train: Tensor, y_train: Tensor, x_test: Tensor, *, c: float = 1.0, max_iter: int = 2000
) -> Tensor:
    """Logistic regression on standardized features, by L-BFGS to convergence.

    Exact and without a schedule, so for features that fit into memory.

    Args:
        x_train: features (A, D).
        y_train: labels, int64 (A,).
        x_test: features (B, D).
        c: inverse strength of the L2 penalty.
        max_iter: most iterations of L-BFGS.

    Returns:
        Predicted labels, int64 (B,).
    """
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=max_iter))
    probe.fit(x_train.cpu().numpy(), y_train.cpu().numpy())
    return torch.from_numpy(probe.predict(x_test.cpu().numpy()))
