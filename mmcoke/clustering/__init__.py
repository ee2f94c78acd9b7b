"""The mathematics of mmcoke and all its state, as plain modules. Needs torch only."""

from .coke import CoKeLabeler
from .online_kmeans import OnlineConstrainedKMeans
from .pseudo_labels import UNASSIGNED, AveragedPseudoLabels, PseudoLabels

__all__ = [
    'UNASSIGNED',
    'AveragedPseudoLabels',
    'CoKeLabeler',
    'OnlineConstrainedKMeans',
    'PseudoLabels',
]
