_base_ = '../../_base_/runtime.py'

default_hooks = dict(
    checkpoint=dict(interval=10, max_keep_ckpts=3),
    replica_check=dict(type='ReplicaCheckHook'),
    cluster_monitor=dict(type='ClusterMonitorHook'),
    adviser=dict(type='AdviserHook'),
    report=dict(type='ReportHook'),
)
custom_hooks = [dict(type='CoKeHook')]
# tensorboard --logdir work_dirs
vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
visualizer = dict(vis_backends=vis_backends)

# machine: on a GPU alone; each can be turned off, such as with --cfg-options gpu.bfloat16=False
gpu = dict(bfloat16=True, channels_last=True)
