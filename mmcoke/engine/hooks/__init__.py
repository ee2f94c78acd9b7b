from .coke_hook import CoKeHook
from .deepcluster_hook import DeepClusterHook
from .odc_hook import ODCHook
from .progress_hook import ProgressHook
from .replica_check_hook import ReplicaCheckHook
from .sample_seed_hook import SampleSeedHook

__all__ = [
    'CoKeHook',
    'DeepClusterHook',
    'ODCHook',
    'ProgressHook',
    'ReplicaCheckHook',
    'SampleSeedHook',
]
