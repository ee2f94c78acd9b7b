"""Augmentation that does not depend on who loads a sample, or when."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info


def seed_random(*key: int) -> int:
    """Seed torch (on CPU), numpy and Python from a few non-negative integers.

    Returns:
        The seed that torch got, for other devices.
    """
    state = np.random.SeedSequence(key).generate_state(4).tolist()
    seed = state[0] << 32 | state[1]
    # Not torch.manual_seed: it turns to all devices, which takes longer than loading an image.
    torch.default_generator.manual_seed(seed)
    np.random.seed(state[2])
    random.seed(state[3])
    return seed


SUBSTITUTE = np.random.MT19937()


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Give torch (on CPU), numpy and Python their random state back afterwards."""
    state, bits, python_state = (
        torch.get_rng_state(),
        np.random.get_bit_generator(),
        random.getstate(),
    )
    # numpy's state takes longer to copy than an image to load: another generator steps in.
    np.random.set_bit_generator(SUBSTITUTE)
    try:
        yield
    finally:
        torch.set_rng_state(state)
        np.random.set_bit_generator(bits)
        random.setstate(python_state)


class SeededPipeline:
    """A pipeline whose random numbers follow from (seed, epoch, sample) alone.

    So an image is augmented alike for any number of workers and processes, and in a run that was
    resumed. The epoch is in shared memory: workers that live through all epochs see it change.

    Args:
        pipeline: from a record with ``sample_idx`` to what the data set returns.
        seed: of the run.
        epoch: int64 scalar tensor in shared memory.
        first: what to add to ``sample_idx``, for a part of a concatenation.
    """

    def __init__(self, pipeline: Callable, seed: int, epoch: torch.Tensor, first: int) -> None:
        self.pipeline, self.seed, self.epoch, self.first = pipeline, seed, epoch, first
        self.num_failed = 0  # in a row

    def __call__(self, record: dict) -> dict | None:
        # In the training process its own random numbers must go on as if a worker did this.
        in_worker = get_worker_info() is not None
        with nullcontext() if in_worker else kept_random_state():
            key = self.seed, int(self.epoch), self.first + record['sample_idx']
            seed_random(*key)
            sample = self.pipeline(record)
            self.num_failed = self.num_failed + 1 if sample is None else 0
            if sample is None:
                # The data set draws another one now; by the key alone, two images that cannot be
                # read could send it to each other for ever. Two numbers more: a key of its own.
                seed_random(*key, self.num_failed, 2)
            return sample


def seed_pipelines(dataset: Dataset, seed: int, epoch: torch.Tensor, first: int = 0) -> None:
    """Make every pipeline in a data set, or in the parts of one, a :class:`SeededPipeline`."""
    if hasattr(dataset, 'datasets'):
        for part in dataset.datasets:
            seed_pipelines(part, seed, epoch, first)
            first += len(part)
    elif hasattr(dataset, 'dataset'):
        seed_pipelines(dataset.dataset, seed, epoch, first)
    elif hasattr(dataset, 'pipeline'):
        dataset.pipeline = SeededPipeline(dataset.pipeline, seed, epoch, first)
