# SeLa with ResNet-50: 10 clusterings of 3000 (Asano et al., ICLR 2020).
#
#   bash tools/dist_train.sh configs/selfsup/sela/sela_r50_8xb32_in1k.py 8
#
# Settings of the paper and of the authors' script: batch 256, learning rate 0.05, a tenth of it
# after 150, 300 and 350 epochs, 400 epochs, lambda 25, labels updated 100 times. Their ResNet is
# pre-activated, this one is not; the views here are DeepCluster's.
#
# Hardware: 8 GPUs, 11 GB of memory for the features of all images on the main process's machine.
# Time: not measured. Expected: 61.5 % ImageNet linear top-1 (published, with their network). Not
# run at this scale by this project.
_base_ = ['../_base_/datasets/imagenet_deepcluster.py', '../_base_/default_runtime.py']

# method
model = dict(
    type='SeLa',
    data_preprocessor={{_base_.data_preprocessor}},
    backbone=dict(type='ResNet', depth=50, norm_cfg=dict(type='BN'), zero_init_residual=False),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='SeLaHead'),
    clustering=dict(num_clusters=[3000] * 10, temperature=1 / 25),
)
train_dataloader = dict(batch_size=32)
custom_hooks = [
    dict(
        type='SeLaHook',
        pipeline={{_base_.feature_pipeline}},
        num_updates=100,
        # machine: does not change results
        batch_size=128,
        num_workers=8,
    )
]

# schedule
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=1e-5),
)
param_scheduler = [dict(type='MultiStepLR', by_epoch=True, milestones=[150, 300, 350], gamma=0.1)]
train_cfg = dict(by_epoch=True, max_epochs=400)
auto_scale_lr = dict(base_batch_size=256, enable=False)
