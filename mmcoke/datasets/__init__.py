"""Data sets and transforms that configs can name."""

from .batches import ImageBatch, unlabelled_batch
from .cifar import CIFAR100Coarse
from .crops import RandomResizedCrops
from .folder import CustomDataset, LoadImageFromFile
from .in_memory import InMemoryImages
from .lighting import Lighting
from .reading import UnreadableImageError, read_image
from .samplers import ClusterUniformSampler, ReplacementSampler, TruncatedSampler
from .stl10 import STL10
from .wrappers import ConcatDataset

__all__ = [
    'STL10',
    'CIFAR100Coarse',
    'ClusterUniformSampler',
    'ConcatDataset',
    'CustomDataset',
    'ImageBatch',
    'InMemoryImages',
    'Lighting',
    'LoadImageFromFile',
    'RandomResizedCrops',
    'ReplacementSampler',
    'TruncatedSampler',
    'UnreadableImageError',
    'read_image',
    'unlabelled_batch',
]
