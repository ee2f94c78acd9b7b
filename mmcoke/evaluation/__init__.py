"""What features are worth: nearest neighbours, linear probe, SVMs, clustering scores.

Every training imports this package, so scikit-learn and SciPy are imported where they are used.
"""

from mmcoke.features.extraction import extract_features

from .clustering import clustering_scores
from .knn import knn_classify, knn_classify_many, knn_leave_one_out
from .linear_probe import linear_probe, linear_probe_folds
from .multi_head_accuracy import MultiHeadAccuracy
from .svm import low_shot_svm, voc_svm

__all__ = [
    'MultiHeadAccuracy',
    'clustering_scores',
    'extract_features',
    'knn_classify',
    'knn_classify_many',
    'knn_leave_one_out',
    'linear_probe',
    'linear_probe_folds',
    'low_shot_svm',
    'voc_svm',
]
