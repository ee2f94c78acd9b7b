"""Vectors that may lie on disk, read in random global batches or in order, and shared work."""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from .precision import unit_rows

ROWS_PER_READ = 1 << 13
BLOCK = 256
"""Rows that lie side by side and are read together, of large tables; fewer of smaller ones."""

NUM_BLOCKS = 1 << 14
"""Into so many blocks a table is divided at least, or into its rows."""

BATCHES_PER_WINDOW = 16
NAMED_ROWS = 5
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


class RowStream:
    """Rows of a table on the unit sphere, float32, on a device; the table itself stays on disk.

    A pass over the table is a sequence of global batches. Its order is a function of seed, number
    of the pass and sizes alone: the blocks of the table come in random order, and the rows of the
    blocks of a *window* of 16 batches are mixed. So reading is sequential within blocks, and a
    batch has rows of many places of a table that is sorted.

    Args:
        x_AD: (A, D), float16, bfloat16 or float32, on the CPU, possibly a memory map; see
            :func:`check_rows`.
        batch_size: rows of a batch; the last one of a pass may have fewer.
        seed: of the order.
        device: where the rows are wanted.
    """

    def __init__(
        self, x_AD: Tensor, batch_size: int, seed: int, device: torch.device | str
    ) -> None:
        self.x_AD, self.batch_size, self.seed, self.device = x_AD, batch_size, seed, device
        self.block = min(BLOCK, max(1, len(x_AD) // NUM_BLOCKS))
        self.num_batches = -(-len(x_AD) // batch_size)
        self.order = self.window = (None, None)

    def batch(self, number: int, index: int) -> Tensor:
        """Unit rows (N, D) of a batch of a pass; in order, each window is read once."""
        place, first = divmod(index, BATCHES_PER_WINDOW)
        if self.window[0] != (number, place):
            self.window = (None, None)  # not two at once
            self.window = ((number, place), self._read_window(number, place))
        first *= self.batch_size
        return self._unit(self.window[1][first : first + self.batch_size])

    def rows(self, rows: Tensor | slice) -> Tensor:
        """Unit rows (n, D) at some places, int64 (n,) or a slice."""
        return self._unit(self.x_AD[rows])

    def _unit(self, x_nD: Tensor) -> Tensor:
        return unit_rows(x_nD.to(self.device, non_blocking=True))

    def _read_window(self, number: int, place: int) -> Tensor:
        """Rows of a window, mixed, as they are in the table."""
        size = BATCHES_PER_WINDOW * self.batch_size
        rows = self._ordered(number, place * size, min((place + 1) * size, len(self.x_AD)))
        mixed = np.random.default_rng((self.seed, number, place)).permutation(len(rows))
        return self.x_AD[rows][torch.from_numpy(mixed)]

    def _ordered(self, number: int, start: int, end: int) -> Tensor:
        """Rows at some places of the order in which a pass reads; what makes no block is last."""
        if self.order[0] != number:
            generator = np.random.default_rng((self.seed, number))
            blocks = generator.permutation(len(self.x_AD) // self.block)
            self.order = (number, torch.from_numpy(blocks))
        blocks, places = self.order[1], torch.arange(start, end)
        inside = places[places < len(blocks) * self.block]
        rows = blocks[inside // self.block] * self.block + inside % self.block
        return torch.cat([rows, places[len(inside) :]])

    def spread_rows(self, number: int, key: int) -> Tensor:
        """A random sample of different places, int64, in order: one out of each equal part."""
        num_samples = len(self.x_AD)
        starts = torch.arange(number + 1) * num_samples // number
        generator = np.random.default_rng((self.seed, key, number, 1))
        share = torch.from_numpy(generator.random(number))
        return starts[:-1] + (share * starts.diff()).long()


def check_rows(x_AD: Tensor, device: torch.device | str = 'cpu') -> None:
    """Refuse a table that has no directions; each process reads its part.

    Args:
        x_AD: see :class:`RowStream`.
        device: through which processes exchange what they find.

    Raises:
        ValueError: in one line, if the table is not (A, D) of such numbers, or if rows are zero or
            not finite; it names the first of them.
    """
    if x_AD.ndim != 2 or not x_AD.shape[1] or x_AD.dtype not in DTYPES:
        raise ValueError(
            f'The vectors must be (A, D), float16, bfloat16 or float32, but are '
            f'{tuple(x_AD.shape)}, {x_AD.dtype}.'
        )

    def is_bad(part: slice) -> tuple[Tensor]:
        low_n, high_n = x_AD[part].aminmax(dim=1)
        size_n = torch.maximum(-low_n, high_n)
        return (~((size_n > 0) & size_n.isfinite()),)

    (bad_A,) = shared([torch.uint8], len(x_AD), ROWS_PER_READ, is_bad, device)
    if bad_A.any():
        rows = bad_A.nonzero().flatten().tolist()
        named = ', '.join(map(str, rows[:NAMED_ROWS])) + (', …' if len(rows) > NAMED_ROWS else '')
        raise ValueError(
            f'{len(rows)} of {len(x_AD)} vectors are zero or not finite and have no direction: '
            f'row {named}. Leave these rows out, or compute them anew.'
        )


def shared(
    dtypes: Sequence[torch.dtype],
    num_rows: int,
    rows_per_chunk: int,
    function: Callable[[slice], Sequence[Tensor]],
    device: torch.device | str = 'cpu',
) -> list[Tensor]:
    """What a function gives for all rows, chunk by chunk, each chunk by one of the processes.

    Chunks do not depend on the number of processes, so neither do results: to the bit, if all
    compute with the same number of threads. All processes must call it and get all of it.

    Args:
        dtypes: of the results, each of them a number for each row.
        num_rows: in all.
        rows_per_chunk: rows that are computed together.
        function: results for a slice of the rows.
        device: of the results; with NCCL, a GPU.
    """
    rank, world_size = process()
    found = [torch.zeros(num_rows, dtype=dtype, device=device) for dtype in dtypes]
    starts = range(0, num_rows, rows_per_chunk)
    for start in starts[rank::world_size]:
        part = slice(start, start + rows_per_chunk)
        for whole, values in zip(found, function(part), strict=True):
            whole[part] = values
    if world_size > 1:
        for whole in found:
            dist.all_reduce(whole)  # exact: all terms but one are 0
    return found


def process() -> tuple[int, int]:
    """Rank of this process and their number."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def memory_mapped(path: str) -> Tensor:
    """The table of a .npy file as a tensor that lies on disk; for reading alone."""
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='The given NumPy array is not writable')
        return torch.from_numpy(np.load(path, mmap_mode='r'))
