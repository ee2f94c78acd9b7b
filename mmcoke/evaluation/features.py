"""Frozen features of whole data sets."""

from collections.abc import Callable, Iterable

import torch
from mmengine.dataset import BaseDataset, default_collate
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.data import DataLoader


@torch.no_grad()
def extract_features(
    model: nn.Module,
    dataset: BaseDataset,
    *,
    batch_size: int = 256,
    num_workers: int = 0,
    progress: Callable[[Iterable], Iterable] = iter,
) -> tuple[Tensor, Tensor]:
    """Features of all images of a data set, in its order, from a model in evaluation mode.

    Args:
        model: an algorithm with ``data_preprocessor``, ``backbone`` and ``neck``.
        dataset: its pipeline ends with ``PackInputs`` and makes one view.
        batch_size: images per forward pass; does not change the features.
        num_workers: processes that load images.
        progress: wraps the iterable of batches, such as ``rich.progress.track``.

    Returns:
        On CPU, in float32: the backbone's last feature map, averaged over space (A, C), and
        the L2-normalized projections (A, D).
    """
    loader = DataLoader(
        dataset, batch_size, num_workers=num_workers, collate_fn=default_collate, shuffle=False
    )
    training = model.training
    model.eval()
    try:
        pairs = [pooled_and_projected(model, batch) for batch in progress(loader)]
    finally:
        model.train(training)
    pooled, projected = (torch.cat(features) for features in zip(*pairs, strict=True))
    return pooled, projected


def pooled_and_projected(model: nn.Module, batch: dict) -> tuple[Tensor, Tensor]:
    """Both features of one collated batch."""
    maps = model.backbone(model.data_preprocessor(batch, False)['inputs'])
    projected = normalize(model.neck(maps)[-1].float(), dim=1)
    return maps[-1].float().mean((2, 3)).cpu(), projected.cpu()
