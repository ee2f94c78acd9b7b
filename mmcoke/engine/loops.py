"""A training loop that can be left, and taken up again, in the middle of an epoch."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from mmengine.dist import get_world_size
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmcoke.registry import LOOPS

from .model_wrappers import unwrap

__all__ = ['EpochLoop']


@LOOPS.register_module()
class EpochLoop(EpochBasedTrainLoop):
    """mmengine's loop over epochs, which also takes up an epoch where a checkpoint left it.

    :func:`mmcoke.engine.launch.build_runner` puts it in place of mmengine's.

    Args:
        runner, dataloader, and others: see ``EpochBasedTrainLoop``.
        compile_network: where there is a GPU, compile augmentation in batch, backbone and neck
            (torch.compile): faster, and the same results but for rounding.
    """

    def __init__(self, runner: Runner, *args, compile_network: bool = False, **kwargs) -> None:
        super().__init__(runner, *args, **kwargs)
        self.compile_network = compile_network

    done: int = 0
    """Iterations of the present epoch that are done."""

    loading: Callable[[], AbstractContextManager] = nullcontext
    """What surrounds the wait for each batch."""

    def run(self) -> nn.Module:
        if self.compile_network and torch.cuda.is_available():
            compile_parts(unwrap(self.runner.model))
        return super().run()

    def run_epoch(self) -> None:
        """What is left of an epoch."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for idx, data_batch in enumerate(self.batches(), self.done):
            self.run_iter(idx, data_batch)
        self.done = 0
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def batches(self) -> Iterator:
        """The batches of the epoch that are not done."""
        with self.loading():
            if self.done:
                skip_batches(self.dataloader, self.done)
            iterator = iter(self.dataloader)
        while True:
            with self.loading():
                try:
                    data_batch = next(iterator)
                except StopIteration:
                    return
            yield data_batch

    def run_iter(self, idx: int, data_batch: Sequence[dict]) -> None:
        self.runner.call_hook('before_train_iter', batch_idx=idx, data_batch=data_batch)
        outputs = self.train_step(data_batch)
        self.runner.call_hook(
            'after_train_iter', batch_idx=idx, data_batch=data_batch, outputs=outputs
        )
        self._iter += 1
        self.done += 1

    def train_step(self, data_batch: Sequence[dict]) -> dict[str, Tensor]:
        """One step of the optimizer; the losses of the batch."""
        return self.runner.model.train_step(data_batch, optim_wrapper=self.runner.optim_wrapper)

    def place(self, meta: dict) -> dict[str, int]:
        """Where in the epoch a checkpoint is taken, for :meth:`take_up`.

        Args:
            meta: of the checkpoint: ``epoch`` and ``iter`` that are finished.
        """
        done = self.done + meta['iter'] - self._iter if meta['epoch'] == self._epoch else 0
        return dict(done=done, **self.lengths())

    def take_up(self, place: dict[str, int]) -> None:
        """Go on from there.

        Raises:
            ValueError: if it lies within an epoch, and epochs are divided otherwise now.
        """
        now = self.lengths()
        before = {name: place[name] for name in now}
        if place['done'] and before != now:
            raise ValueError(
                f'The checkpoint lies in the middle of an epoch of {describe(before)}; now an '
                f'epoch is {describe(now)}. Resume with as many processes and images as before, '
                'or from a checkpoint of the end of an epoch: --resume .../epoch_N.pth'
            )
        self.done = place['done']

    def lengths(self) -> dict[str, int]:
        """What an epoch consists of."""
        return dict(
            num_batches=len(self.dataloader),
            batch_size=self.dataloader.batch_sampler.batch_size,
            num_processes=get_world_size(),
        )


def compile_parts(model: nn.Module) -> None:
    """Compile what is neither clustering nor loss: network, and on a GPU the views made there."""
    on_gpu = next(model.parameters()).is_cuda
    views = getattr(model.data_preprocessor, 'views', ()) if on_gpu else ()
    for part in (*views, model.backbone, model.neck, getattr(model, 'target', None)):
        if part is not None:
            part.compile()


def describe(lengths: dict[str, int]) -> str:
    """The numbers of :meth:`EpochLoop.lengths` in words."""
    return '{num_batches} batches of {batch_size} on {num_processes} processes'.format(**lengths)


def taken_up(runner: Runner) -> bool:
    """Whether the epoch that begins now was begun by an earlier run."""
    return getattr(runner.train_loop, 'done', 0) > 0


class SkippingBatches:
    """A batch sampler whose first pass leaves out its first batches, without loading them."""

    def __init__(self, batches: object, skip: int) -> None:
        self.batches, self.skip = batches, skip

    def __iter__(self) -> Iterator[list[int]]:
        # On the first draw: loaders with workers make two iterators, and use the second.
        skip, self.skip = self.skip, 0
        yield from itertools.islice(self.batches, skip, None)

    def __len__(self) -> int:
        return len(self.batches)

    def __getattr__(self, name: str) -> object:
        return getattr(self.batches, name)  # as other hooks look for the sampler in it


def skip_batches(loader: DataLoader, number: int) -> None:
    """Leave out the first batches of the first pass over a loader."""
    # A loader refuses another batch sampler once it is made, lest its other attributes disagree;
    # this one is the same but for where it starts.
    object.__setattr__(loader, 'batch_sampler', SkippingBatches(loader.batch_sampler, number))
