from .coke import CoKe
from .deepcluster import ODC, DeepCluster
from .deepcluster_v2 import DeepClusterV2
from .secu import SeCu

__all__ = ['ODC', 'CoKe', 'DeepCluster', 'DeepClusterV2', 'SeCu']
