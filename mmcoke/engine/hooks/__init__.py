from .adviser_hook import AdviserHook
from .checkpoint_hook import CheckpointHook
from .cluster_monitor_hook import ClusterMonitorHook
from .coke_hook import CoKeHook
from .deepcluster_hook import DeepClusterHook
from .deepcluster_v2_hook import DeepClusterV2Hook
from .interruption_hook import InterruptionHook
from .kmeans_start_hook import KMeansStartHook
from .label_check_hook import LabelCheckHook
from .odc_hook import ODCHook
from .probe_hooks import KNNHook, LinearProbeHook
from .progress_hook import ProgressHook
from .replica_check_hook import ReplicaCheckHook
from .report_hook import ReportHook
from .results_hook import ResultsHook
from .runtime_info_hook import PendingInfoHook
from .sample_seed_hook import SampleSeedHook
from .sela_hook import SeLaHook
from .self_label_hook import SelfLabelHook
from .skip_unreadable_hook import SkipUnreadableHook
from .swav_hook import SwAVHook

__all__ = [
    'AdviserHook',
    'CheckpointHook',
    'ClusterMonitorHook',
    'CoKeHook',
    'DeepClusterHook',
    'DeepClusterV2Hook',
    'InterruptionHook',
    'KMeansStartHook',
    'KNNHook',
    'LabelCheckHook',
    'LinearProbeHook',
    'ODCHook',
    'PendingInfoHook',
    'ProgressHook',
    'ReplicaCheckHook',
    'ReportHook',
    'ResultsHook',
    'SampleSeedHook',
    'SeLaHook',
    'SelfLabelHook',
    'SkipUnreadableHook',
    'SwAVHook',
]
