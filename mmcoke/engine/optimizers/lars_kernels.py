"""LARS on a GPU in two passes over all parameters, by Triton.

The first reads weights and gradients and leaves sums of squares of each block of 4096 numbers; the
second adds those of its tensor, reads weights, gradients and momenta, and writes weights and
momenta: 7 reads or writes per number. Sums are in a fixed order, so steps are deterministic.
Tensors are reached by a table of their addresses, which is sent to the GPU when one has changed;
nothing waits for the GPU, and a step can be captured in a CUDA graph.
"""

import itertools
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096


@triton.jit
def _block(table, blocks, num_tensors: tl.constexpr, BLOCK: tl.constexpr):
    """Tensor of a program, and offsets and mask of its numbers."""
    tensor = tl.load(blocks + 2 * tl.program_id(0))
    offset = tl.load(blocks + 2 * tl.program_id(0) + 1) + tl.arange(0, BLOCK)
    return tensor, offset, offset < tl.load(table + 3 * num_tensors + tensor)


@triton.jit
def _pointer(table, index):
    return tl.multiple_of(tl.load(table + index).to(tl.pointer_type(tl.float32)), 16)


@triton.jit
def _sum_squares(table, blocks, sums, decay, num_tensors: tl.constexpr, BLOCK: tl.constexpr):
    """Of weights and of directions, one pair per block."""
    tensor, offset, mask = _block(table, blocks, num_tensors, BLOCK)
    weight = tl.load(_pointer(table, tensor) + offset, mask, 0.0)
    direction = tl.load(_pointer(table, num_tensors + tensor) + offset, mask, 0.0) + decay * weight
    tl.store(sums + 2 * tl.program_id(0), tl.sum(weight * weight))
    tl.store(sums + 2 * tl.program_id(0) + 1, tl.sum(direction * direction))


@triton.jit
def _update(
    table,
    blocks,
    sums,
    first_block,
    lr,
    decay,
    momentum,
    trust,
    num_tensors: tl.constexpr,
    scaled: tl.constexpr,
    BLOCK: tl.constexpr,
    PAIRS: tl.constexpr,
):
    """Momenta and weights; of scaled tensors with decay and trust ratio."""
    tensor, offset, mask = _block(table, blocks, num_tensors, BLOCK)
    weights = _pointer(table, tensor) + offset
    momenta = _pointer(table, 2 * num_tensors + tensor) + offset
    weight = tl.load(weights, mask, 0.0)
    direction = tl.load(_pointer(table, num_tensors + tensor) + offset, mask, 0.0)
    if scaled:
        squares_of_weight = tl.zeros((PAIRS,), tl.float32)
        squares_of_direction = tl.zeros((PAIRS,), tl.float32)
        end = tl.load(first_block + tensor + 1)
        for start in range(tl.load(first_block + tensor), end, PAIRS):
            pair = start + tl.arange(0, PAIRS)
            squares_of_weight += tl.load(sums + 2 * pair, pair < end, 0.0)
            squares_of_direction += tl.load(sums + 2 * pair + 1, pair < end, 0.0)
        norm = tl.sqrt(tl.sum(squares_of_weight))
        norm_of_direction = tl.sqrt(tl.sum(squares_of_direction))
        positive = (norm > 0) & (norm_of_direction > 0)
        ratio = trust * norm / tl.where(positive, norm_of_direction, 1.0)
        direction = (direction + decay * weight) * tl.where(positive, ratio, 1.0)
    moment = momentum * tl.load(momenta, mask, 0.0) + direction
    tl.store(momenta, moment, mask)
    tl.store(weights, weight - tl.load(lr) * moment, mask)


class LARSKernels:
    """Steps of some tensors, whose sizes stay.

    Args:
        params: weights on one device.
        scaled: whether weight decay and trust ratio apply.
    """

    def __init__(self, params: Sequence[Tensor], *, scaled: bool) -> None:
        self.sizes, self.scaled, device = [p.numel() for p in params], scaled, params[0].device
        blocks = [(i, at) for i, size in enumerate(self.sizes) for at in range(0, size, BLOCK)]
        first = itertools.accumulate((-(-size // BLOCK) for size in self.sizes), initial=0)
        self.blocks = torch.tensor(blocks, device=device)
        self.first_block = torch.tensor(list(first), device=device)
        self.sums = torch.empty(len(blocks), 2, device=device)
        self.addresses, self.table, self.spare, self.captured = [], None, None, []

    def step(
        self,
        params: Sequence[Tensor],
        grads: Sequence[Tensor],
        momenta: Sequence[Tensor],
        *,
        lr: Tensor,
        weight_decay: float,
        momentum: float,
        trust_coefficient: float,
    ) -> None:
        """Update weights and momenta in place; ``lr`` is a float32 tensor on their device."""
        addresses = [x.data_ptr() for x in (*params, *grads, *momenta)]
        if is_capturing(self.blocks) or addresses != self.addresses:
            self._send(addresses)
        grid, size = (len(self.blocks),), len(self.sizes)
        tables = self.table, self.blocks, self.sums
        options = dict(num_tensors=size, BLOCK=BLOCK)
        with torch.cuda.device_of(self.blocks):
            if self.scaled:
                _sum_squares[grid](*tables, weight_decay, **options)
            numbers = lr, weight_decay, momentum, trust_coefficient
            _update[grid](
                *tables, self.first_block, *numbers, scaled=self.scaled, PAIRS=256, **options
            )

    def _send(self, addresses: list[int]) -> None:
        """The table of addresses and sizes, to the device, without waiting.

        A graph copies it from the host's memory at each replay, and none can be allocated while a
        graph is captured: a capture takes, and keeps, what the step before has set aside.
        """
        on_host, on_gpu = torch.tensor([*addresses, *self.sizes]), self.blocks.is_cuda
        if is_capturing(self.blocks):
            if self.spare is None:
                raise RuntimeError('LARS: run a step before each capture in a CUDA graph.')
            on_host, self.spare = self.spare.copy_(on_host), None
            self.captured.append(on_host)
            addresses = []  # the table is filled at the replay
        elif on_gpu:
            on_host = on_host.pin_memory()
            self.spare = torch.empty_like(on_host, pin_memory=True)
        self.table = on_host.to(self.blocks.device, non_blocking=True)
        self.addresses = addresses


def is_capturing(tensor: Tensor) -> bool:
    """Whether what is done with a tensor goes into a CUDA graph."""
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()
