"""Random numbers as a function of what they are for: no generator, no state.

A key follows from (seed, epoch, sample, view), and the numbers of a key from their position. So a
view of an image is the same whichever batch, process or run computes it, and in a CUDA graph, which
sees another epoch when the tensor that holds it changes. All of it is integer arithmetic that wraps
alike everywhere, so numbers are the same bits on CPU and GPU.

The numbers of a key are those of splitmix64 (Steele, Lea and Flood, Fast splittable pseudorandom
number generators, OOPSLA 2014) from that key on: its finalizer is that of Stafford (variant 13).
"""

import math

import torch
from torch import Tensor

BITS = 24
"""Random bits of a number: as many as a float32 holds exactly."""


def wrapped(number: int, bits: int = 64) -> int:
    """An unsigned number of so many bits as the signed one that a tensor holds."""
    return number - (1 << bits) if number >> (bits - 1) else number


GOLDEN = wrapped(0x9E3779B97F4A7C15)
INVERSE = wrapped(pow(0x9E3779B97F4A7C15, -1, 1 << 64))
"""key + counter * GOLDEN is computed as (key * INVERSE + counter) * GOLDEN. torch's compiler takes
the product of a counter and a number for an index, for which it has 32 bits."""
FACTORS = wrapped(0xBF58476D1CE4E5B9), wrapped(0x94D049BB133111EB)
GOLDEN_32 = wrapped(0x9E3779B9, 32)
FACTORS_32 = wrapped(0x7FEB352D, 32), wrapped(0x846CA68B, 32)
INVERSE_32 = wrapped(pow(0x9E3779B9, -1, 1 << 32), 32)
SPREAD_32 = wrapped(0xC2B2AE35, 32)


def shifted(x: Tensor, places: int) -> Tensor:
    """Bits moved to the right, filled with zeros: ``>>`` of a signed tensor repeats the sign."""
    width = torch.iinfo(x.dtype).bits
    return (x >> places).bitwise_and_((1 << (width - places)) - 1)


def mixed(x: Tensor) -> Tensor:
    """Every bit of the result depends on all bits of the int64 ``x``; one to one."""
    x = (x ^ shifted(x, 30)).mul_(FACTORS[0])
    x.bitwise_xor_(shifted(x, 27)).mul_(FACTORS[1])
    return x.bitwise_xor_(shifted(x, 31))


def view_keys(seed: Tensor, epoch: Tensor, sample_N: Tensor, num_views: int) -> Tensor:
    """A key for each view of each sample, int64 (V, N).

    Args:
        seed, epoch: int64 scalar tensors on the device of ``sample_N``.
        sample_N: indices in the data set, int64 (N,).
        num_views: V. Views beyond it would have changed nothing for these.
    """
    view_V1 = torch.arange(num_views, device=sample_N.device)[:, None]
    key = torch.zeros_like(seed)
    for number in (seed, epoch, sample_N, view_V1):
        key = mixed(key + (number + 1) * GOLDEN)
    return key


def uniforms(key_N: Tensor, num_draws: int) -> Tensor:
    """Numbers in [0, 1), multiples of 2^-24, float32 (N, num_draws)."""
    counter = torch.arange(1, num_draws + 1, device=key_N.device)
    bits = shifted(mixed((key_N[:, None] * INVERSE + counter) * GOLDEN), 64 - BITS)
    return bits.float().mul_(2.0**-BITS)


def pixel_bits(u_N2: Tensor, num_pixels: int) -> Tensor:
    """A stream of random bits for each image, the upper 24 of 32, int32 (N, num_pixels).

    In 32 bits, which a CPU has vectors for; the finalizer is Wellons' ``lowbias32``. Two numbers
    make 48 bits of a key: the second one enters between the rounds, so that streams that run into
    each other there are no copies of each other, shifted.

    Args:
        u_N2: two of the :func:`uniforms` of each image.
        num_pixels: how many.
    """
    start, middle = (u_N2 * 2.0**BITS).to(torch.int32).mul_(SPREAD_32).split(1, dim=1)
    counter = torch.arange(num_pixels, dtype=torch.int32, device=u_N2.device)
    x = (start * INVERSE_32 + counter) * GOLDEN_32
    x.bitwise_xor_(shifted(x, 16)).mul_(FACTORS_32[0])
    x.add_(middle)
    x.bitwise_xor_(shifted(x, 15)).mul_(FACTORS_32[1])
    x.bitwise_xor_(shifted(x, 16))
    return shifted(x, 32 - BITS)


def pixel_normals(u_N2: Tensor, num_pixels: int) -> Tensor:
    """Numbers of the standard normal distribution, up to 5.4 in size, float32 (N, num_pixels).

    See :func:`pixel_bits`. Their bits are the same on CPU and GPU but for the rounding of the
    inverse error function.
    """
    middle_of_cell = pixel_bits(u_N2, num_pixels).float().mul_(2.0 ** (1 - BITS))
    return middle_of_cell.sub_(1 - 2.0**-BITS).erfinv_().mul_(math.sqrt(2))
