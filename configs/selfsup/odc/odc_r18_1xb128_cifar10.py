# ODC, ResNet-18, on the training images of CIFAR-10: network, augmentation and number of epochs of
# CoKe's recipe with one view.
#
#   python tools/train.py configs/selfsup/odc/odc_r18_1xb128_cifar10.py
#
# Without a download by mmpretrain: --cfg-options train_dataloader.dataset.source=cifar10_train.npz
# (x, uint8 (n, 32, 32, 3) in RGB).
#
# Hardware: 1 GPU. Time, expected: not measured; run for one epoch of 2,000 images on a CPU.
_base_ = '../coke/coke_r18_1xb128_cifar10.py'

# data
train_dataloader = dict(sampler=dict(_delete_=True, type='ReplacementSampler'))

# method
model = dict(
    type='ODC',
    neck=dict(
        _delete_=True,
        type='ODCNeck',
        hid_channels=512,
        out_channels=256,
        dropout=0.5,
        norm_cfg=dict(type='BN1d'),
    ),
    head=dict(_delete_=True, type='ClusterClsHead'),
    clustering=dict(_delete_=True, num_clusters=500),  # 100 images per cluster
)
custom_hooks = [dict(type='ODCHook', pipeline=[dict(type='PackInputs')], batch_size=512)]

# schedule: the published learning rate; no warm-up, because the first labels decay meanwhile
optim_wrapper = dict(
    optimizer=dict(lr=0.06),
    paramwise_cfg=dict(custom_keys=dict(head=dict(momentum=0.0))),
)
param_scheduler = [dict(type='WarmupCosineLR', zero=0, warmup=0, convert_to_iter_based=True)]
train_cfg = dict(type='EpochLoop', max_epochs=400)
