from .coke import CoKe, MomentumCoKe
from .deepcluster import ODC, DeepCluster, SeLa
from .deepcluster_v2 import DeepClusterV2
from .secu import SeCu
from .self_label import SelfLabel
from .swav import SwAV

__all__ = [
    'ODC',
    'CoKe',
    'DeepCluster',
    'DeepClusterV2',
    'MomentumCoKe',
    'SeCu',
    'SeLa',
    'SelfLabel',
    'SwAV',
]
