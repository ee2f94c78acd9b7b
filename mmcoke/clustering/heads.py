"""Several clusterings of the same features in one pass: their buffers as parts of common ones."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn


class Rule(NamedTuple):
    """How clusters are pushed: numbers, or tensors with one per cluster of all heads."""

    sizes: list[int]
    dual_lr: float | Tensor
    lower_bound: float | Tensor
    first_H1: Tensor | int = 0
    """Clusters of the heads before each one."""


class Heads(nn.Module):
    """Several labelers of one kind, each a module in this one, whose steps are one.

    Verbs and results are those of one labeler per head, in lists. The buffers of the heads are
    parts of tensors that hold those of all, and stay so when the module is moved, copied or loaded;
    state is saved as in a list of labelers. A table of labels has the integer type of the largest
    K.

    The class of a method names its labeler, says which buffers that has (:meth:`buffers_of`,
    :meth:`put_buffers`), and has a ``step()``, which changes ``_joint`` by ``_rule()``. A labeler
    has the numbers ``num_clusters``, ``dual_lr`` and ``lower_bound`` (a share of all samples).

    Args:
        num_samples, settings: of the labelers.
        dim: of the labelers; a list, one D for each head, where they can differ.
        num_clusters: one K for each head.
        seed: of the first head; the others take seed + 1, ...

    Raises:
        ValueError: if there is no head; else as the labelers.
    """

    labeler: ClassVar[type[nn.Module]]

    def __init__(
        self, num_samples: int, num_clusters: Sequence[int], dim: Any, *, seed: int = 0, **settings
    ) -> None:
        nn.Module.__init__(self)
        if not num_clusters:
            raise ValueError('num_clusters is empty: name one number per clustering.')
        dims = list(dim) if several(dim) else [dim] * len(num_clusters)
        if len(dims) != len(num_clusters):
            raise ValueError(
                f'dim names the dimensions of {len(dims)} clusterings, num_clusters the clusters '
                f'of {len(num_clusters)}. Name one number per clustering in both.'
            )
        for number, (k, width) in enumerate(zip(num_clusters, dims, strict=True)):
            head = self.labeler(num_samples, k, width, seed=seed + number, **settings)
            self.add_module(str(number), head)
        self._join()

    def buffers_of(self, head: nn.Module) -> tuple:
        """The state of a labeler as a named tuple of tensors with H = 1; views.

        Names end with ``_C...`` where there is a row per cluster; the other tensors have one per
        head. None where the settings do without; then all heads do.
        """
        raise NotImplementedError

    def put_buffers(self, head: nn.Module, part: tuple) -> None:
        """Let a labeler have these; the reverse of :meth:`buffers_of`."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._modules.values())

    def __getitem__(self, number: int) -> Any:
        return list(self)[number]

    def set_epoch(self, epoch: int) -> None:
        self._join()
        for head in self:
            head.set_epoch(epoch)

    def continue_epoch(self, epoch: int) -> None:
        self._join()
        for head in self:
            head.continue_epoch(epoch)

    def end_epoch(self) -> None:
        for head in self:
            head.end_epoch()

    def sizes(self) -> list[Tensor]:
        """Number of samples per cluster by their newest label, int64 (K,) for each head."""
        return [head.sizes() for head in self]

    def changed(self) -> list[Tensor]:
        """Share of samples whose label changed in this epoch so far, for each head."""
        return [head.changed() for head in self]

    def _apply(self, *args, **kwargs) -> nn.Module:
        super()._apply(*args, **kwargs)  # moves the buffers of the heads, each on its own
        self._join()
        return self

    def _join(self) -> None:
        """Let the buffers of the heads be parts of common ones, if they are not."""
        own = [self.buffers_of(head) for head in self]
        sizes = [head.num_clusters for head in self]
        if self._joint is None or not all(map(is_same, parts_of(self._joint, sizes), own)):
            self._joint, self._rates = join(own), None
            for head, part in zip(self, parts_of(self._joint, sizes), strict=True):
                self.put_buffers(head, part)

    _joint: tuple | None = None
    _rates: list[float] | None = None
    _made: Rule | None = None

    def __getstate__(self) -> dict:
        # A pickle or a deep copy would have the common buffers beside their parts.
        return {**self.__dict__, '_joint': None, '_rates': None, '_made': None}

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self._join()

    def _rule(self) -> Rule:
        """The settings, as tensors on the device; made again when ``dual_lr`` of a head changes."""
        rates = [head.dual_lr for head in self]
        if rates != self._rates:
            sizes = [head.num_clusters for head in self]
            bounds = [head.lower_bound for head in self]
            device, repeats = next(self.buffers()).device, torch.tensor(sizes)
            dual_lr, lower_bound = (
                torch.tensor(x, dtype=torch.float32).repeat_interleave(repeats).to(device)
                for x in (rates, bounds)
            )
            first_H1 = (repeats.cumsum(0) - repeats)[:, None].to(device)
            self._made = Rule(sizes, dual_lr, lower_bound, first_H1)
            self._rates = rates
        return self._made


def several(num_clusters: Any) -> bool:
    """Whether it is a list of numbers, one per head."""
    return isinstance(num_clusters, Sequence) and not isinstance(num_clusters, str)


def join(own: list[tuple]) -> tuple:
    """The buffers of several heads in common ones: copies."""
    kind = type(own[0])
    return kind(*(None if x[0] is None else torch.cat(x) for x in zip(*own, strict=True)))


def parts_of(joint: tuple, sizes: list[int]) -> list[tuple]:
    """The part of each head; views.

    Args:
        joint: of :func:`join`.
        sizes: K of each head.
    """
    split = [
        [None] * len(sizes) if x is None else x.split(sizes if '_C' in name else 1)
        for name, x in zip(joint._fields, joint, strict=True)
    ]
    return [type(joint)(*part) for part in zip(*split, strict=True)]


def is_same(one: tuple, other: tuple) -> bool:
    """Whether the tensors of both are the same memory."""
    return all(
        x is y or (x.data_ptr(), x.dtype, x.shape) == (y.data_ptr(), y.dtype, y.shape)
        for x, y in zip(one, other, strict=True)
    )
