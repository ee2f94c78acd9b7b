from .coke import CoKe
from .deepcluster import ODC, DeepCluster

__all__ = ['ODC', 'CoKe', 'DeepCluster']
