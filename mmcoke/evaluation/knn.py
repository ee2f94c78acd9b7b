"""Classification by nearest neighbours."""

import torch
from torch import Tensor
from torch.nn.functional import normalize


@torch.no_grad()
def knn_classify(
    x_train: Tensor,
    y_train: Tensor,
    x_test: Tensor,
    *,
    k: int = 20,
    temperature: float = 0.07,
    chunk_size: int = 1024,
) -> Tensor:
    """Weighted vote of the k most similar training samples (Wu et al., CVPR 2018).

    Features are L2-normalized here; a neighbour with cosine similarity s votes with
    exp(s / temperature).

    Args:
        x_train: features (A, D).
        y_train: labels in 0 ... num_classes - 1, int64 (A,).
        x_test: features (B, D).
        k: number of neighbours, at most A.
        temperature: of the votes.
        chunk_size: test samples at a time; bounds the memory (chunk_size, A).

    Returns:
        Predicted labels, int64 (B,).

    Raises:
        ValueError: if k is not in 1 ... A.
    """
    if not 1 <= k <= len(x_train):
        raise ValueError(f'k must be in 1 ... {len(x_train)} (training samples), but is {k}.')
    x_train, x_test = normalize(x_train.float(), dim=1), normalize(x_test.float(), dim=1)
    num_classes = int(y_train.max()) + 1
    predictions = []
    for chunk in x_test.split(chunk_size):
        similarity, neighbour = (chunk @ x_train.T).topk(k, dim=1)
        # The largest similarity is taken off first: the vote is the same, and exp cannot overflow.
        vote = torch.exp((similarity - similarity[:, :1]) / temperature)
        votes = vote.new_zeros(len(chunk), num_classes)
        votes.scatter_add_(1, y_train[neighbour], vote)
        predictions.append(votes.argmax(1))
    return torch.cat(predictions)
