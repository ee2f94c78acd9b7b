from .coke import CoKe
from .deepcluster import ODC, DeepCluster, SeLa
from .swav import SwAV

__all__ = ['ODC', 'CoKe', 'DeepCluster', 'SeLa', 'SwAV']
