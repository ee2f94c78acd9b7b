from .coke import CoKe
from .deepcluster import ODC, DeepCluster
from .secu import SeCu

__all__ = ['ODC', 'CoKe', 'DeepCluster', 'SeCu']
