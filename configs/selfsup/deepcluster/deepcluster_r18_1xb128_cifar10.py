# DeepCluster, ResNet-18, on the training images of CIFAR-10: network, augmentation and number of
# epochs of CoKe's recipe with one view.
#
#   python tools/train.py configs/selfsup/deepcluster/deepcluster_r18_1xb128_cifar10.py
#
# Without a download by mmpretrain: --cfg-options train_dataloader.dataset.source=cifar10_train.npz
# (x, uint8 (n, 32, 32, 3) in RGB).
#
# Hardware: 1 GPU. Time, expected: not measured; run for one epoch of 2,000 images on a CPU.
_base_ = '../coke/coke_r18_1xb128_cifar10.py'

# data
train_dataloader = dict(sampler=dict(_delete_=True, type='ClusterUniformSampler'))

# method
model = dict(
    type='DeepCluster',
    neck=dict(_delete_=True, type='GlobalAveragePooling'),
    head=dict(_delete_=True, type='ClusterClsHead'),
    clustering=dict(_delete_=True, num_clusters=500, pca_dim=256),  # 100 images per cluster
)
custom_hooks = [
    dict(type='DeepClusterHook', pipeline=[dict(type='PackInputs')], batch_size=512, interval=1)
]

# schedule: the classifier, which starts anew each time, without momentum; no epoch at rate 0
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(head=dict(momentum=0.0))))
param_scheduler = [dict(type='WarmupCosineLR', zero=0, warmup=10, convert_to_iter_based=True)]
train_cfg = dict(type='EpochLoop', max_epochs=400)
