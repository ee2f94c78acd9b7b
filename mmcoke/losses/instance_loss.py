"""Telling images apart by two views: NT-Xent."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


def instance_loss(x_nD: Tensor, y_nD: Tensor, *, temperature: float = 0.2) -> Tensor:
    """NT-Xent, the loss of SimCLR (Chen et al., ICML 2020): a view finds the other one of its image
    among all other views of the batch.

    In float32, also under autocast. Other images are those of this process.

    Args:
        x_nD, y_nD: L2-normalized features of two views of the same images (n, D).
        temperature: positive.

    Returns:
        Mean over the 2n views, a float32 scalar.
    """
    with torch.autocast(x_nD.device.type, enabled=False):
        views_MD = torch.cat([x_nD, y_nD]).float()
        logits_MM = views_MD @ views_MD.T / temperature
        itself_MM = torch.eye(len(views_MD), dtype=torch.bool, device=x_nD.device)
        other_M = torch.arange(len(views_MD), device=x_nD.device).roll(len(x_nD))
        return cross_entropy(logits_MM.masked_fill(itself_MM, -torch.inf), other_M)
