"""Checkpoints: layouts of others, loading with counts, publishing.

Importing it makes mmengine read every checkpoint safely and count what ``Pretrained`` loads.
"""

from mmcoke import registry  # noqa: F401  (checks the installed versions before mmpretrain is imported)

from . import addresses  # noqa: F401
from .initializers import *  # noqa: F403
