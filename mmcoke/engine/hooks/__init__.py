from .coke_hook import CoKeHook
from .progress_hook import ProgressHook
from .replica_check_hook import ReplicaCheckHook
from .sample_seed_hook import SampleSeedHook

__all__ = ['CoKeHook', 'ProgressHook', 'ReplicaCheckHook', 'SampleSeedHook']
