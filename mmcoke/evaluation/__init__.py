"""What features are worth: nearest neighbours, linear probe, SVMs, clustering scores.

Every training imports this package, so scikit-learn and SciPy are imported where they are used.
"""

from mmcoke.features.extraction import extract_features

from .clustering import clustering_scores
from .knn import knn_classify, knn_classify_many
from .linear_probe import linear_probe
from .multi_head_accuracy import MultiHeadAccuracy
from .svm import low_shot_svm, voc_svm

__all__ = [
    'MultiHeadAccuracy',
    'clustering_scores',
    'extract_features',
    'knn_classify',
    'knn_classify_many',
    'linear_probe',
    'low_shot_svm',
    'voc_svm',
]
