"""Linear classification of frozen features."""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor


def linear_probe(
    x_train: Tensor | np.ndarray,
    y_train: Tensor | np.ndarray,
    x_test: Tensor | np.ndarray,
    *,
    c: float = 1.0,
    max_iter: int = 2000,
) -> Tensor:
    """Logistic regression on standardized features, by L-BFGS to convergence.

    Exact and without a schedule, so for features that fit into memory.

    Args:
        x_train: features (A, D); memory-mapped arrays will do.
        y_train: labels, int64 (A,).
        x_test: features (B, D).
        c: inverse strength of the L2 penalty.
        max_iter: most iterations of L-BFGS.

    Returns:
        Predicted labels, int64 (B,).
    """
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=max_iter))
    probe.fit(as_array(x_train), as_array(y_train))
    return torch.from_numpy(probe.predict(as_array(x_test)))


def as_array(x: Tensor | np.ndarray) -> np.ndarray:
    """An array on the CPU."""
    return x.cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
