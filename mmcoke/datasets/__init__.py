"""Data sets and transforms that configs can name."""

from .folder import CustomDataset, LoadImageFromFile, UnreadableImageError
from .in_memory import InMemoryImages
from .samplers import TruncatedSampler
from .wrappers import ConcatDataset

__all__ = [
    'ConcatDataset',
    'CustomDataset',
    'InMemoryImages',
    'LoadImageFromFile',
    'TruncatedSampler',
    'UnreadableImageError',
]
