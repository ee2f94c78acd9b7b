"""Checkpoints: layouts of others, loading with counts, publishing."""

from mmcoke import registry  # noqa: F401  (checks the installed versions before mmpretrain is imported)

from .initializers import *  # noqa: F403
