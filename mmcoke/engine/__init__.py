"""Hooks, optimizers, schedulers and launching for mmengine."""

from . import checkpoint  # noqa: F401 (lets torch.load read mmengine's checkpoints)
from .captured import *  # noqa: F403
from .curves import *  # noqa: F403
from .hooks import *  # noqa: F403
from .loops import *  # noqa: F403
from .model_wrappers import *  # noqa: F403
from .optimizers import *  # noqa: F403
from .schedulers import *  # noqa: F403
