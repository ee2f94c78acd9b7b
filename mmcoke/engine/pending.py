"""Numbers of iterations that stay on the device until they are looked at.

To read a number off a GPU, the host waits until all work before it is done, and the GPU then waits
for the host. So it is done where something is logged, for all iterations since at once.
"""

import torch
from mmengine.hooks import LoggerHook
from mmengine.runner import Runner
from torch import Tensor


class Pending:
    """Scalars of iterations, in order."""

    def __init__(self) -> None:
        self._kept: list[dict[str, Tensor]] = []

    def add(self, scalars: dict[str, Tensor]) -> None:
        """Keep those of one iteration; tensors, not changed afterwards."""
        self._kept.append({name: x.detach() for name, x in scalars.items()})

    def take(self) -> list[dict[str, float]]:
        """Those of all iterations since the last time, by one copy from the device."""
        kept, self._kept = self._kept, []
        values = [x.double().reshape(()) for scalars in kept for x in scalars.values()]
        numbers = iter(torch.stack(values).tolist() if values else [])
        return [{name: next(numbers) for name in scalars} for scalars in kept]


def is_due(runner: Runner, batch_idx: int, scalars: dict[str, Tensor]) -> bool:
    """Whether the numbers of an iteration are looked at now.

    On CPU, where none wait, always; else where the logger writes them, and when an epoch ends.
    """
    if all(x.device.type == 'cpu' for x in scalars.values()):
        return True
    intervals = [hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)]
    logged = any((batch_idx + 1) % interval == 0 for interval in intervals)
    return logged or batch_idx + 1 == len(runner.train_dataloader)
