from .coke import CoKe
from .deepcluster import ODC, DeepCluster, SeLa
from .secu import SeCu
from .swav import SwAV

__all__ = ['ODC', 'CoKe', 'DeepCluster', 'SeCu', 'SeLa', 'SwAV']
