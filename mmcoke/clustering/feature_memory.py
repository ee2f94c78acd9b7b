"""A table of features, one per sample, on one process or spread over many."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .settings import check_number


class FeatureMemory(nn.Module):
    """One feature per sample, indexed by ``sample_idx``: the memory of ODC.

    Sharded, each process holds a block of ``ceil(A / processes)`` rows and all of them call
    :meth:`read` and :meth:`write` with the same indices. Such a memory is not in the state dict,
    which one process saves: save ``x`` of each process.

    Args:
        num_samples: A, number of samples in the data set.
        dim: D, dimension of the features.
        device: where the rows stay, such as 'cpu' while the network is on a GPU; None: with the
            module.
        sharded: spread the rows over the processes.

    Raises:
        ValueError: if there is no sample or no dimension.
    """

    x: Tensor

    def __init__(
        self, num_samples: int, dim: int, *, device: str | None = None, sharded: bool = False
    ) -> None:
        super().__init__()
        check_number('num_samples', num_samples, '[1, inf)', whole=True)
        check_number('dim', dim, '[1, inf)', whole=True)
        self.num_samples, self.dim, self.pinned_to = num_samples, dim, device
        self.sharded = sharded and dist.is_available() and dist.is_initialized()
        world_size = dist.get_world_size() if self.sharded else 1
        block = -(-num_samples // world_size)
        self.first = (dist.get_rank() if self.sharded else 0) * block
        num_rows = max(0, min(block, num_samples - self.first))
        x = torch.zeros(num_rows, dim, device=device)
        self.register_buffer('x', x, persistent=not self.sharded)

    def _apply(self, fn, recurse: bool = True) -> 'FeatureMemory':
        # What model.to(...) calls.
        return self if self.pinned_to else super()._apply(fn, recurse)

    @property
    def own(self) -> slice:
        """The samples whose rows are here."""
        return slice(self.first, self.first + len(self.x))

    @torch.no_grad()
    def read(self, idx_N: Tensor) -> Tensor:
        """Features of some samples (N, D), on the device of the indices."""
        row_N = (idx_N - self.first).to(self.x.device)
        if not self.sharded:
            return self.x[row_N].to(idx_N.device)
        x_ND = torch.zeros(len(idx_N), self.dim, device=self.x.device)
        here_N = (row_N >= 0) & (row_N < len(self.x))
        x_ND[here_N] = self.x[row_N[here_N]]
        x_ND = x_ND.to(idx_N.device)
        dist.all_reduce(x_ND)  # exact: all terms but one are 0
        return x_ND

    @torch.no_grad()
    def write(self, idx_N: Tensor, x_ND: Tensor) -> None:
        """Store features (N, D); rows with equal indices must be equal."""
        row_N, x_ND = (idx_N - self.first).to(self.x.device), x_ND.to(self.x.device)
        if self.sharded:
            here_N = (row_N >= 0) & (row_N < len(self.x))
            row_N, x_ND = row_N[here_N], x_ND[here_N]
        self.x[row_N] = x_ND

    def extra_repr(self) -> str:
        return f'num_samples={self.num_samples}, dim={self.dim}, rows here={len(self.x)}'
