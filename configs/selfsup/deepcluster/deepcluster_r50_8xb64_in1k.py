# DeepCluster with ResNet-50: the recipe of OpenMMLab's model zoo, after Caron et al., ECCV 2018.
#
#   bash tools/dist_train.sh configs/selfsup/deepcluster/deepcluster_r50_8xb64_in1k.py 8
#
# Hardware: 8 GPUs, 11 GB of memory for the features of all images on the main process's machine.
# Time: not measured. Expected: not published without the Sobel filter (with it, see
# deepcluster-sobel_r50_8xb64_in1k.py). Not run at this scale by this project.
_base_ = ['../_base_/datasets/imagenet_deepcluster.py', '../_base_/default_runtime.py']

# method
model = dict(
    type='DeepCluster',
    data_preprocessor={{_base_.data_preprocessor}},
    backbone=dict(type='ResNet', depth=50, norm_cfg=dict(type='BN'), zero_init_residual=False),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='ClusterClsHead'),
    clustering=dict(num_clusters=10000, pca_dim=256, num_iters=20),
)
train_dataloader = dict(sampler=dict(_delete_=True, type='ClusterUniformSampler'))
custom_hooks = [
    dict(
        type='DeepClusterHook',
        pipeline={{_base_.feature_pipeline}},
        interval=1,  # epochs
        # machine: does not change results
        batch_size=128,
        num_workers=8,
    )
]

# schedule: constant learning rate; the classifier, which starts anew each time, without momentum
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-5),
    paramwise_cfg=dict(custom_keys=dict(head=dict(momentum=0.0))),
)
train_cfg = dict(by_epoch=True, max_epochs=200)
auto_scale_lr = dict(base_batch_size=512, enable=False)
