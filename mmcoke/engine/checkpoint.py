"""Lets ``torch.load(weights_only=True)`` read the checkpoints that mmengine writes.

Since torch 2.6 ``weights_only`` is the default, and mmengine 0.10.7 cannot resume its own
checkpoints: they pickle the log history, with numpy numbers in it. The classes below only hold
numbers; ``weights_only`` stays on for everything else.
"""

import pickle
from collections.abc import Callable

import numpy as np
import torch
from mmengine.logging.history_buffer import HistoryBuffer

try:
    from numpy._core import multiarray
except ImportError:  # numpy 1
    from numpy.core import multiarray


def statistics_method(owner: type, name: str) -> Callable:
    """Stands in for ``getattr``, with which ``HistoryBuffer`` pickles its own methods.

    Raises:
        UnpicklingError: for anything but such a method, so no checkpoint reaches other attributes.
    """
    if owner is HistoryBuffer and name in ('min', 'max', 'current', 'mean'):
        return getattr(HistoryBuffer, name)
    raise pickle.UnpicklingError(f'A checkpoint may not look up {name!r} of {owner!r}.')


torch.serialization.add_safe_globals(
    [
        HistoryBuffer,
        (statistics_method, 'builtins.getattr'),
        np.ndarray,
        np.dtype,
        *{type(np.dtype(name)) for name in ('float64', 'float32', 'int64', 'int32')},
        # Either numpy reads the other's checkpoints.
        *(
            (getattr(multiarray, name), f'numpy.{package}.multiarray.{name}')
            for name in ('_reconstruct', 'scalar')
            for package in ('core', '_core')
        ),
    ]
)
