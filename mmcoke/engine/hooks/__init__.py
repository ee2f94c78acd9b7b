from .coke_hook import CoKeHook
from .deepcluster_hook import DeepClusterHook
from .odc_hook import ODCHook
from .probe_hooks import KNNHook, LinearProbeHook
from .progress_hook import ProgressHook
from .replica_check_hook import ReplicaCheckHook
from .sample_seed_hook import SampleSeedHook

__all__ = [
    'CoKeHook',
    'DeepClusterHook',
    'KNNHook',
    'LinearProbeHook',
    'ODCHook',
    'ProgressHook',
    'ReplicaCheckHook',
    'SampleSeedHook',
]
