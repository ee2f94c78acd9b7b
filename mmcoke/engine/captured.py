"""A training loop whose step is one CUDA graph: preprocessing, network, clustering, optimizer."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.optim import Optimizer

from mmcoke.registry import LOOPS

from .loops import EpochLoop
from .optimizers import LARS, BFloat16OptimWrapper

__all__ = ['CapturedTrainLoop']

CAPTURABLE = dict(capturable=True)
"""Settings of the optimizers of torch that have such a mode."""

NUM_PLAIN = 3
"""Steps before a capture: they make what is made once (momentum buffers, plans of libraries)."""


@LOOPS.register_module()
class CapturedTrainLoop(EpochLoop):
    """Captures the step of training in a CUDA graph and replays it for every batch.

    A GPU then gets one command per iteration instead of some hundred, between which it would wait
    for small images and networks. What is computed is the same; hooks, schedules, checkpoints and
    resuming work as with :class:`EpochLoop`.

    The first steps run plainly, and are steps of training like the others. Captured are
    preprocessing on the device, forward, clustering, loss, backward and the optimizer's step; the
    learning rate is a tensor that each replay reads. It is captured again when the model says that
    its steps have changed (``model.step_key()``). Where a step cannot be captured, it runs plainly
    and the log says why; so do single batches of another shape.

    Args:
        see :class:`EpochLoop`.
    """

    def __init__(self, runner: Runner, *args, **kwargs) -> None:
        super().__init__(runner, *args, **kwargs)
        self._step: CapturedStep | None = None
        self._key: Any = None
        self._num_plain = 0
        self._reason: str | None = None

    def run(self) -> nn.Module:
        self._reason = obstacle(self.runner)
        if self._reason:
            print_log(
                f'The steps of training are not captured in a CUDA graph: {self._reason}.',
                logger='current',
            )
        return super().run()

    def train_step(self, data_batch: dict) -> dict[str, Tensor]:
        if self._reason:
            return super().train_step(data_batch)
        if (key := self.runner.model.step_key()) != self._key:
            self._key, self._step, self._num_plain = key, None, 0
        if self._step is None and self._num_plain < NUM_PLAIN:
            self._num_plain += 1
            with self._stream_of_capture(), capturable(self.runner.optim_wrapper.optimizer):
                return super().train_step(data_batch)
        if self._step is None:
            self._capture(data_batch)
        if self._step is None or not self._step.fits(data_batch):
            return super().train_step(data_batch)
        return self._step(data_batch)

    def _capture(self, data_batch: dict) -> None:
        """Capture a step, which does not run it; if that fails, steps stay plain."""
        try:
            check_tensors(data_batch)
            self._step = self._make_step(data_batch)
        except (RuntimeError, ValueError) as error:
            self._reason = ' '.join(str(error).split())[:300]
            print_log(
                f'The step of training could not be captured in a CUDA graph ({self._reason}): it '
                "runs plainly, which is slower. train_cfg=dict(type='EpochLoop', ...) does so from "
                'the beginning.',
                logger='current',
                level=logging.WARNING,
            )

    def _make_step(self, data_batch: dict) -> 'CapturedStep':
        wrapper = self.runner.optim_wrapper
        return CapturedStep(
            lambda batch: self.runner.model.train_step(batch, optim_wrapper=wrapper),
            data_batch,
            wrapper.optimizer,
        )

    @contextmanager
    def _stream_of_capture(self) -> Iterator[None]:
        """What runs before a capture runs on another stream, as torch asks for."""
        stream, current = side_stream(), torch.cuda.current_stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            yield
        current.wait_stream(stream)


@cache
def side_stream() -> 'torch.cuda.Stream':
    """The stream of plain steps before a capture; one for the process."""
    return torch.cuda.Stream()


class CapturedStep:
    """One step as a CUDA graph.

    Args:
        step: from a batch to scalar losses; changes the model and the optimizer.
        batch: of the shapes to come; copied.
        optimizer: its learning rates may change between replays.
    """

    def __init__(
        self,
        step: Callable[[dict], dict[str, Tensor]],
        batch: dict,
        optimizer: Optimizer,
    ) -> None:
        device = optimizer.param_groups[0]['params'][0].device
        self.batch = mapped(batch, lambda x: x.to(device, copy=True))
        self.optimizer = optimizer
        optimizer.zero_grad(set_to_none=True)  # gradients lie in the memory of the graph
        with capturable(optimizer) as self.rates:
            self.replay, self.losses = capture(lambda: step(self.batch))

    def fits(self, batch: dict) -> bool:
        """Whether a batch has the shapes of the one that was captured."""
        return signature(batch) == signature(self.batch)

    def __call__(self, batch: dict) -> dict[str, Tensor]:
        """One step on a batch; its losses."""
        for mine, new in zip(tensors_of(self.batch), tensors_of(batch), strict=True):
            mine.copy_(new, non_blocking=True)
        for rate, group in zip(self.rates, self.optimizer.param_groups, strict=True):
            rate.fill_(group['lr'])
        self.replay()
        return {name: loss.detach().clone() for name, loss in self.losses.items()}


def capture(step: Callable[[], dict]) -> tuple[Callable[[], None], dict]:
    """The replay of a step as a CUDA graph, and the tensors in which its results will lie."""
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side_stream()):
        losses = step()
    return graph.replay, losses


@contextmanager
def capturable(optimizer: Optimizer) -> Iterator[list[Tensor]]:
    """Let an optimizer's step be captured: settings that are read on the device.

    Yields:
        The learning rate of each group, as the tensor that a step within reads.
    """
    before = [dict(group) for group in optimizer.param_groups]
    rates = []
    for group in optimizer.param_groups:
        device = group['params'][0].device
        rate = torch.full((), group['lr'], dtype=torch.float32, device=device)
        rates.append(rate)
        group['lr'] = rate
        if 'capturable' in group:
            group.update(CAPTURABLE)
        elif isinstance(optimizer, torch.optim.SGD):
            group.update(fused=True, foreach=False)  # the one that takes the rate as a tensor
    try:
        yield rates
    finally:
        for group, old in zip(optimizer.param_groups, before, strict=True):
            group.update({name: value for name, value in old.items() if name != 'params'})


def obstacle(runner: Runner) -> str | None:
    """Why a runner's steps cannot be captured; None if they can."""
    wrapper, model = runner.optim_wrapper, runner.model
    device = next(model.parameters()).device
    if device.type != 'cuda':
        return f'the model is on {device.type}, and there are graphs on CUDA alone'
    if runner.world_size > 1:
        return 'several processes train, which exchange gradients'
    if type(wrapper) not in (OptimWrapper, BFloat16OptimWrapper):
        return f'{type(wrapper).__name__} looks at the gradients in every step'
    if wrapper._accumulative_counts > 1:
        return 'gradients are accumulated, so steps differ'
    if wrapper.clip_grad_kwargs:
        return 'clipped gradients are logged in every step'
    optimizer = wrapper.optimizer
    known = isinstance(optimizer, (torch.optim.SGD, LARS)) or 'capturable' in optimizer.defaults
    if not known:
        return f'{type(optimizer).__name__} is not known to take its learning rate from the device'
    if not hasattr(model, 'step_key'):
        return f'{type(model).__name__} does not say when its steps change (step_key)'
    return model.obstacle_to_capture()


# ---- batches


def mapped(
    batch: Any, function: Callable[[Tensor], Any], other: Callable[[Any], Any] = lambda x: x
) -> Any:
    """The same structure of dictionaries and lists with other tensors, and other other things."""
    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, dict):
        return {name: mapped(value, function, other) for name, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        return [mapped(value, function, other) for value in batch]
    return other(batch)


def tensors_of(batch: Any) -> Iterator[Tensor]:
    """The tensors in a structure of dictionaries and lists, in order."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, (dict, list, tuple)):
        for value in batch.values() if isinstance(batch, dict) else batch:
            yield from tensors_of(value)


def check_tensors(batch: Any) -> None:
    """ValueError if there is something else in a batch: a graph would see that of one for ever."""
    others: list = []
    mapped(batch, lambda x: None, others.append)
    if others:
        raise ValueError(
            f'batches hold {type(others[0]).__name__} on the host; set train_dataloader.'
            "collate_fn=dict(type='mmcoke.unlabelled_batch')"
        )


def signature(batch: Any) -> Any:
    """What must be the same for two batches to be used by one graph."""
    return mapped(batch, lambda x: (tuple(x.shape), x.dtype))
