"""Augmentation of whole batches as a pure function of (seed, epoch, sample, view)."""

from .random import view_keys
from .views import OPERATIONS, View, build_operation

__all__ = ['OPERATIONS', 'View', 'build_operation', 'view_keys']
