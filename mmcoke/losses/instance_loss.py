"""Telling images apart by two views: NT-Xent, as it is or decoupled."""

import torch
from torch import Tensor


def instance_loss(
    x_nD: Tensor, y_nD: Tensor, *, temperature: float = 0.2, decoupled: bool = False
) -> Tensor:
    """NT-Xent, the loss of SimCLR (Chen et al., ICML 2020): a view finds the other one of its image
    among all other views of the batch.

    In float32, also under autocast. Other images are those of this process.

    Args:
        x_nD, y_nD: L2-normalized features of two views of the same images (n, D).
        temperature: positive.
        decoupled: leave the other view of the same image out of the denominator (DCL; Yeh et al.,
            ECCV 2022). Its similarity then pulls as much where the image is told apart already,
            which helps small batches. Needs two images.

    Returns:
        Mean over the 2n views, a float32 scalar.

    Raises:
        ValueError: if there is one image, and ``decoupled``: it has no other to be told from.
    """
    if decoupled and len(x_nD) < 2:
        raise ValueError(
            'The decoupled loss tells an image from others, but a batch has one image. Leave such '
            'a rest out (train_dataloader.drop_last=True), or take another batch_size.'
        )
    with torch.autocast(x_nD.device.type, enabled=False):
        views_MD = torch.cat([x_nD, y_nD]).float()
        logits_MM = views_MD @ views_MD.T / temperature
        found_M = torch.cat([logits_MM.diagonal(len(x_nD))] * 2)
        left_out_MM = torch.eye(len(views_MD), dtype=torch.bool, device=x_nD.device)
        if decoupled:
            left_out_MM = left_out_MM | left_out_MM.roll(len(x_nD), 0)
        among_M = logits_MM.masked_fill(left_out_MM, -torch.inf).logsumexp(1)
        return (among_M - found_M).mean()
