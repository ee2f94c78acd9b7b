"""The mathematics of mmcoke and all its state, as plain modules.

Needs torch only, and k-means on all GPUs faiss.
"""

from .coke import CoKeLabeler
from .dec import DecResult, assign_dec, dec_cluster
from .deepcluster import DeepClusterLabeler, cluster_weight
from .deepcluster_v2 import DeepClusterV2Labeler
from .feature_memory import FeatureMemory
from .kmeans import KMeansResult, kmeans, pca_whiten
from .odc import ODCLabeler
from .online_kmeans import OnlineConstrainedKMeans
from .pseudo_labels import UNASSIGNED, AveragedPseudoLabels, PseudoLabels
from .row_stream import memory_mapped
from .secu import SeCuLabeler
from .sela import SeLaLabeler
from .self_label import SelfLabeler, agreement, confident, nearest_neighbors
from .sinkhorn import sinkhorn
from .streaming_kmeans import StreamResult, assign_stream, stream_kmeans
from .swav import SwAVLabeler
from .triangle import triangle

__all__ = [
    'UNASSIGNED',
    'AveragedPseudoLabels',
    'CoKeLabeler',
    'DecResult',
    'DeepClusterLabeler',
    'DeepClusterV2Labeler',
    'FeatureMemory',
    'KMeansResult',
    'ODCLabeler',
    'OnlineConstrainedKMeans',
    'PseudoLabels',
    'SeCuLabeler',
    'SeLaLabeler',
    'SelfLabeler',
    'StreamResult',
    'SwAVLabeler',
    'agreement',
    'assign_dec',
    'assign_stream',
    'cluster_weight',
    'confident',
    'dec_cluster',
    'kmeans',
    'memory_mapped',
    'nearest_neighbors',
    'pca_whiten',
    'sinkhorn',
    'stream_kmeans',
    'triangle',
]
