from .coke import CoKe
from .deepcluster import ODC, DeepCluster
from .swav import SwAV

__all__ = ['ODC', 'CoKe', 'DeepCluster', 'SwAV']
