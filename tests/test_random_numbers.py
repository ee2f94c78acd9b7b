"""Random numbers that follow from what they are for."""

import numpy as np
import pytest
import torch
from scipy import stats

from mmcoke.augmentation.random import mixed, pixel_bits, pixel_normals, uniforms, view_keys

WORD = (1 << 64) - 1


def keys(seed=0, epoch=0, samples=range(4), num_views=2):
    seed, epoch, samples = (torch.tensor(x) for x in (seed, epoch, list(samples)))
    return view_keys(seed, epoch, samples, num_views)


def splitmix64(state, count):
    """The generator as its authors wrote it, with Python's integers."""
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & WORD
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
        yield z ^ (z >> 31)


def test_numbers_are_those_of_splitmix64():
    """With the numbers that are published for the seed 1234567."""
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert list(splitmix64(1234567, 3)) == known
    found = uniforms(torch.tensor([1234567, -1]), 3)
    assert found[0].double().tolist() == [(number >> 40) / 2**24 for number in known]
    assert found[1].double().tolist() == [(n >> 40) / 2**24 for n in splitmix64(WORD, 3)]


def test_keys_are_known():
    """They never change: a run that is resumed with another version must see the same images."""
    for seed, epoch, sample, view in ((0, 0, 0, 0), (7, 230, 1256, 1), (2**32 - 1, 999, 10**9, 5)):
        key = 0
        for number in (seed, epoch, sample, view):
            state = key + number * 0x9E3779B97F4A7C15
            key = next(splitmix64(state & WORD, 1))
        found = keys(seed, epoch, [sample], view + 1)[view, 0].item()
        assert found & WORD == key
    assert keys(7, 230, [1256], 2)[1, 0].item() == -7568758757277156408


def test_bits_are_those_of_the_arithmetic_without_signs():
    x = torch.tensor([-1, 0, 1, 2**62, -(2**63)])
    z = x.numpy().astype(np.uint64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    assert (mixed(x).numpy() == (z ^ (z >> np.uint64(31))).astype(np.int64)).all()


def test_numbers_are_uniform_in_all_their_bits():
    u = uniforms(keys(samples=range(2000), num_views=1)[0], 100).double()
    assert u.min() >= 0
    assert u.max() < 1
    assert stats.kstest(u.flatten().numpy(), 'uniform').pvalue > 1e-3
    bits = (u[..., None] * 2**24).long() >> torch.arange(24) & 1
    share = bits.double().mean((0, 1))
    assert (share - 0.5).abs().max() < 4.5 * 0.5 / 200_000**0.5


def neighbours():
    """Numbers of two streams that differ by one in one thing, (n,) each."""
    one = keys(samples=range(2000), num_views=3)
    u = uniforms(one[0], 50)
    yield 'samples', u[:-1], u[1:]
    yield 'counters', u[:, :-1], u[:, 1:]
    yield 'views', u, uniforms(one[1], 50)
    yield 'epochs', u, uniforms(keys(epoch=1, samples=range(2000))[0], 50)
    yield 'seeds', u, uniforms(keys(seed=1, samples=range(2000))[0], 50)
    yield 'epoch and seed', *(uniforms(keys(*p, range(2000))[0], 50) for p in ((0, 1), (1, 0)))
    yield 'epoch and sample', u[1:], uniforms(keys(epoch=1, samples=range(2000))[0], 50)[:-1]


@pytest.mark.parametrize('case', range(7))
def test_neighbours_are_independent(case):
    name, one, other = list(neighbours())[case]
    one, other = (x.flatten().numpy() for x in (one, other))
    assert abs(np.corrcoef(one, other)[0, 1]) < 4.5 / len(one) ** 0.5, name
    table, *_ = np.histogram2d(one, other, bins=16, range=[(0, 1), (0, 1)])
    assert stats.chisquare(table.flatten()).pvalue > 1e-4, name


def test_keys_of_all_things_differ():
    found = [keys(seed, epoch, range(500), 3) for seed in range(3) for epoch in range(3)]
    assert torch.stack(found).unique().numel() == 9 * 3 * 500


def test_an_epoch_is_a_tensor_whose_change_is_seen():
    seed, epoch, sample = torch.tensor(3), torch.tensor(0), torch.arange(5)
    before = view_keys(seed, epoch, sample, 1)
    epoch.fill_(4)
    assert torch.equal(view_keys(seed, epoch, sample, 1), keys(3, 4, range(5), 1))
    assert (before != view_keys(seed, epoch, sample, 1)).all()
    assert (seed, epoch) == (3, 4)


def test_noise_is_normal_and_independent():
    u = uniforms(keys(samples=range(300), num_views=1)[0], 2)
    noise = pixel_normals(u, 1000).double()
    assert stats.kstest(noise.flatten().numpy(), 'norm').pvalue > 1e-3
    limit = 4.5 / 299_000**0.5
    for one, other in ((noise[:-1], noise[1:]), (noise[:, :-1], noise[:, 1:])):
        assert abs((one * other).mean()) < limit
        assert abs((one.abs() * other.abs()).mean() - 2 / np.pi) < 2 * limit
    # Extremes: the least and the greatest cell are finite and mirror images.
    assert noise.abs().max() < 5.5


def test_streams_that_start_alike_are_no_copies():
    u = torch.tensor([[0.5, 0.25], [0.5, 0.25 + 2.0**-24], [0.5 + 2.0**-24, 0.25]])
    bits = pixel_bits(u, 4096)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert len(np.intersect1d(bits[one], bits[other])) < 16, 'of 2^24 values'


@pytest.mark.gpu
def test_a_gpu_makes_the_same_bits():
    there = view_keys(*(torch.tensor(x).cuda() for x in (5, 6, list(range(1000)))), 2)
    here = keys(5, 6, range(1000))
    assert torch.equal(there.cpu(), here)
    u = uniforms(here[0], 40)
    assert torch.equal(uniforms(there[0], 40).cpu(), u)
    assert torch.equal(pixel_bits(u[:, :2].cuda(), 3072).cpu(), pixel_bits(u[:, :2], 3072))
