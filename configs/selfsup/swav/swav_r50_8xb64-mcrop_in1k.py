# SwAV, 2 x 224 + 6 x 96 crops: the published recipe for small batches (Caron et al., NeurIPS 2020).
#
#   bash tools/dist_train.sh configs/selfsup/swav/swav_r50_8xb64-mcrop_in1k.py 8
#   bash tools/dist_train.sh configs/selfsup/swav/swav_r50_8xb64-mcrop_in1k.py 4 --auto-scale-lr
#
# Published with 4 x 64 images and learning rate 0.6, which the second line runs; 8 x 64 have twice
# the rate. Hardware: 8 GPUs. Time: not measured. Expected: 74.6 % ImageNet linear top-1 after 400
# epochs (published, with batches of 4096 images). Not run at this scale by this project.
_base_ = [
    '../_base_/models/swav_r50.py',
    '../_base_/datasets/imagenet_swav_mcrop.py',
    '../_base_/default_runtime.py',
]

# method
model = dict(
    type='SwAV',
    data_preprocessor={{_base_.data_preprocessor}},
    head=dict(type='SwAVHead', in_channels=128, temperature=0.1, freeze_epochs=1),
    clustering=dict(
        num_clusters=3000,
        temperature=0.05,
        num_iters=3,
        queue_length=3840,
        queue_from_epoch=15,
    ),
)
custom_hooks = [dict(type='SwAVHook')]

# schedule
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(  # 0.6 * 512 / 256
        type='LARS', lr=1.2, momentum=0.9, weight_decay=1e-6, trust_coefficient=0.001
    ),
    paramwise_cfg=dict(custom_keys={'head.prototypes': dict(decay_mult=0.0)}),
)
param_scheduler = [
    dict(
        type='CosineAnnealingLR',
        eta_min_ratio=0.001,
        by_epoch=True,
        begin=0,
        end=400,
        T_max=400,
        convert_to_iter_based=True,
    )
]
train_cfg = dict(by_epoch=True, max_epochs=400)
auto_scale_lr = dict(base_batch_size=512, enable=False)
