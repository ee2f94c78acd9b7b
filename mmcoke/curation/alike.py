"""Pictures like this one: the nearest images to a few."""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from .duplicates import unit

CHUNK_SIZE = 1 << 14
"""Rows that are compared with all queries at once."""


class Alike(NamedTuple):
    """An image, and those most like it.

    Attributes:
        query: row of the image.
        rows: of the others, the most similar first.
        similarity: cosine of each.
    """

    query: int
    rows: list[int]
    similarity: list[float]


def typical_rows(typical: Sequence[Tensor], number: int) -> list[int]:
    """Images to ask for: the most typical one of each cluster, large clusters first; then the
    second of each, and so on.

    Args:
        typical: rows of each cluster, the most typical first.
        number: of images; all, if there are fewer.
    """
    order = sorted(range(len(typical)), key=lambda cluster: (-len(typical[cluster]), cluster))
    most = max(map(len, typical), default=0)
    members = (typical[cluster][i : i + 1] for i in range(most) for cluster in order)
    return [int(row) for row in islice((row for part in members for row in part), number)]


def most_alike(
    x_AD: Tensor,
    queries: Sequence[int],
    number: int,
    *,
    progress: Callable[[Iterable], Iterable] = iter,
) -> list[Alike]:
    """The images most like some of them, by the cosine of their vectors; exact.

    Args:
        x_AD: vectors, of any length but 0; may lie on the disk, and are read in chunks (A, D).
        queries: rows of the images that are asked for.
        number: of images to find for each; fewer where there are no more.
        progress: wraps the list of chunks.
    """
    number = min(number, len(x_AD) - 1)
    if not queries or not number:
        return []
    asked = torch.tensor(queries)
    x_QD = unit(x_AD, asked)
    best_Qn, row_Qn = torch.empty(len(asked), 0), torch.empty(len(asked), 0, dtype=torch.int64)
    for start in progress(range(0, len(x_AD), CHUNK_SIZE)):
        rows = torch.arange(start, min(start + CHUNK_SIZE, len(x_AD)))
        similarity = x_QD @ unit(x_AD, rows).T
        similarity[asked[:, None] == rows] = -torch.inf  # not itself
        best_Qn = torch.cat([best_Qn, similarity], 1)
        row_Qn = torch.cat([row_Qn, rows.expand(len(asked), -1)], 1)
        # A stable sort: of equally similar images the first ones, however the chunks lie.
        best_Qn, place = best_Qn.sort(dim=1, descending=True, stable=True)
        best_Qn, row_Qn = best_Qn[:, :number], row_Qn.gather(1, place[:, :number])
    return [
        Alike(query, rows, values)
        for query, rows, values in zip(queries, row_Qn.tolist(), best_Qn.tolist(), strict=True)
    ]
