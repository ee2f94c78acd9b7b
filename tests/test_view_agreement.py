"""Agreement of two views, against cases computed by hand."""

import pytest
import torch

from mmcoke.evaluation.view_agreement import view_agreement


def on_circle(*degrees):
    angle = torch.tensor(degrees, dtype=torch.float64) * torch.pi / 180
    return torch.stack([angle.cos(), angle.sin()], 1).float()


def test_equal_views_agree_wholly():
    x = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    assert view_agreement(x, 3 * x, k=4) == (1, 1)


def test_two_pairs_whose_second_views_change_places():
    """0 and 10 see each other's second view; all keep their nearest other image."""
    x = on_circle(0, 10, 90, 95)
    y = on_circle(10, 0, 90, 95)
    assert view_agreement(x, y, k=1) == (0.5, 1)


def test_company_that_changes():
    """By the first view the pairs are (0, 1) and (2, 3), by the second (0, 2) and (1, 3)."""
    x = on_circle(0, 10, 90, 95)
    y = on_circle(0, 90, 10, 95)
    found, common = view_agreement(x, y, k=1)
    # 10 degrees has its nearest second view at 10, that of image 2; 90 at 90, that of image 1.
    assert (found, common) == (0.5, 0)
    # Of two neighbours, 0 and 3 have both in common, 1 and 2 one.
    assert view_agreement(x, y, k=2).common == 0.75


def test_equal_images_are_no_trouble():
    x = torch.ones(6, 3)
    assert view_agreement(x, x, k=2).common <= 1


def test_what_is_no_pair_is_refused():
    with pytest.raises(ValueError, match='no pairs'):
        view_agreement(torch.ones(3, 2), torch.ones(4, 2))
    with pytest.raises(ValueError, match='k must'):
        view_agreement(torch.ones(3, 2), torch.ones(3, 2), k=3)
