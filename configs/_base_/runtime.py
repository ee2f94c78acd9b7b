# What pre-training and classification benchmarks share.
default_scope = 'mmcoke'

default_hooks = dict(
    runtime_info=dict(type='PendingInfoHook'),  # does not wait for a GPU in every iteration
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=100),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='CheckpointHook',
        backend_args=dict(backend='whole_files'),  # a checkpoint is complete or not there
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    sample_seed=dict(type='SampleSeedHook'),  # randomness from seed, place and sample
)

# machine: does not change results
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
save_minutes = 10  # how old the last checkpoint may get within an epoch; 0: only by epoch
rank_timeout = 120  # seconds of silence after which a process counts as lost, and the others end
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='UniversalVisualizer', vis_backends=vis_backends)
log_level = 'INFO'
load_from = None
resume = False

randomness = dict(seed=0)
