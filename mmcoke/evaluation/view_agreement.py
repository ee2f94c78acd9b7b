"""How much two views of the same images agree, without labels."""

from typing import NamedTuple

import torch
from torch import Tensor

from mmcoke.clustering.settings import check_number

from .knn import nearest_neighbours


class ViewAgreement(NamedTuple):
    """Shares of images, or means over them, in [0, 1].

    Attributes:
        found: images whose nearest neighbour among the second views is their own second view.
        common: of the k nearest other images by the first view and by the second, the share that
            both have.
    """

    found: float
    common: float


@torch.no_grad()
def view_agreement(x_AD: Tensor, y_AD: Tensor, *, k: int = 10) -> ViewAgreement:
    """Agreement of the nearest neighbours (cosine) by two views of the same images.

    A network that sees what is on an image, and not how it was cropped and coloured, has both near
    1; chance is 1 / A and about k / A. ``found`` asks whether an image is told from all others,
    ``common`` whether it has the same company: a network that confuses images of one kind has a
    low ``found`` and a high ``common``.

    Args:
        x_AD, y_AD: features of the images by their first and second views, in the same order.
        k: number of neighbours, less than A.

    Raises:
        ValueError: if there are not as many of both, or k is not in 1 ... A - 1.
    """
    if x_AD.shape != y_AD.shape:
        raise ValueError(f'Views of {tuple(x_AD.shape)} and {tuple(y_AD.shape)} are no pairs.')
    check_number('k', k, f'[1, {len(x_AD) - 1}]', whole=True)
    own_A = torch.arange(len(x_AD))
    _, nearest_A1 = nearest_neighbours(y_AD, x_AD, 1)
    member_AA = [others(x, k) for x in (x_AD, y_AD)]
    common = (member_AA[0] & member_AA[1]).sum(1) / k
    return ViewAgreement((nearest_A1[:, 0] == own_A).float().mean().item(), common.mean().item())


def others(x_AD: Tensor, k: int) -> Tensor:
    """Which are the k nearest other samples of each: bool (A, A)."""
    _, neighbour = nearest_neighbours(x_AD, x_AD, k + 1)
    own = neighbour == torch.arange(len(x_AD))[:, None]
    # Where more than k samples are equal, a sample may be missing among its own neighbours.
    own[~own.any(1), -1] = True
    member = torch.zeros(len(x_AD), len(x_AD), dtype=torch.bool)
    return member.scatter_(1, neighbour[~own].view(-1, k), True)
