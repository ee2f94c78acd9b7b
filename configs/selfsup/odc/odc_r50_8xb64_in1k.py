# ODC with ResNet-50: the recipe of OpenMMLab's model zoo, after Zhan et al., CVPR 2020.
#
#   bash tools/dist_train.sh configs/selfsup/odc/odc_r50_8xb64_in1k.py 8
#
# Hardware: 8 GPUs; the memory takes 1.3 GB on each (clustering.memory_device='cpu': of each
# process's host memory; shard_memory=True: 1/8 of it). Time: not measured. Expected: 78.42 % VOC07
# SVM, 53.42 % ImageNet linear top-1 (published by OpenMMLab, trained with OpenSelfSup). Not run at
# this scale by this project.
_base_ = ['../_base_/datasets/imagenet_deepcluster.py', '../_base_/default_runtime.py']

# method
norm_cfg = dict(type='SyncBN')
model = dict(
    type='ODC',
    data_preprocessor={{_base_.data_preprocessor}},
    backbone=dict(type='ResNet', depth=50, norm_cfg=norm_cfg, zero_init_residual=False),
    neck=dict(type='ODCNeck', hid_channels=512, out_channels=256, dropout=0.5, norm_cfg=norm_cfg),
    head=dict(type='ClusterClsHead'),
    clustering=dict(num_clusters=10000, momentum=0.5, min_size=20, reweight_pow=0.5),
)
train_dataloader = dict(sampler=dict(_delete_=True, type='ReplacementSampler'))
custom_hooks = [
    dict(
        type='ODCHook',
        pipeline={{_base_.feature_pipeline}},
        centroids_interval=10,  # iterations
        small_clusters_interval=1,
        # machine: does not change results
        batch_size=128,
        num_workers=8,
    )
]

# schedule
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.06, momentum=0.9, weight_decay=1e-5),
    paramwise_cfg=dict(custom_keys=dict(head=dict(momentum=0.0))),
)
param_scheduler = [dict(type='MultiStepLR', by_epoch=True, milestones=[400], gamma=0.4)]
train_cfg = dict(by_epoch=True, max_epochs=440)
auto_scale_lr = dict(base_batch_size=512, enable=False)
