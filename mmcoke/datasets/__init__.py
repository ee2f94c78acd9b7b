"""Data sets and transforms that configs can name."""

from .folder import CustomDataset, LoadImageFromFile
from .in_memory import InMemoryImages
from .lighting import Lighting
from .reading import UnreadableImageError, read_image
from .samplers import ClusterUniformSampler, ReplacementSampler, TruncatedSampler
from .wrappers import ConcatDataset

__all__ = [
    'ClusterUniformSampler',
    'ConcatDataset',
    'CustomDataset',
    'InMemoryImages',
    'Lighting',
    'LoadImageFromFile',
    'ReplacementSampler',
    'TruncatedSampler',
    'UnreadableImageError',
    'read_image',
]
