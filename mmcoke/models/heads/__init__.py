from .centroid_head import CentroidHead
from .cluster_cls_head import ClusterClsHead
from .coke_head import CoKeHead, InstanceCoKeHead, NestedCoKeHead
from .cosine_cluster_head import CosineClusterHead
from .multi_linear_head import MultiLinearHead
from .secu_head import SeCuHead
from .sela_head import SeLaHead
from .swav_head import SwAVHead

__all__ = [
    'CentroidHead',
    'ClusterClsHead',
    'CoKeHead',
    'CosineClusterHead',
    'InstanceCoKeHead',
    'MultiLinearHead',
    'NestedCoKeHead',
    'SeCuHead',
    'SeLaHead',
    'SwAVHead',
]
