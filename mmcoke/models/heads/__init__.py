from .cluster_cls_head import ClusterClsHead
from .coke_head import CoKeHead

__all__ = ['ClusterClsHead', 'CoKeHead']
