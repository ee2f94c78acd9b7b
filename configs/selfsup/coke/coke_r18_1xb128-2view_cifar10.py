# CoKe, two views, ResNet-18, on the training images of CIFAR-10.
#
#   python tools/train.py configs/selfsup/coke/coke_r18_1xb128-2view_cifar10.py
#
# Without a download by mmpretrain: --cfg-options train_dataloader.dataset.source=cifar10_train.npz
# (x, uint8 (n, 32, 32, 3) in RGB).
#
# Hardware: 1 GPU; the images lie on it, and each step is one CUDA graph. Time: not measured by this
# loop; the same step as a program of its own took 5.3 ms, 35 minutes for 1000 epochs of 390 steps
# (H200). Expected: not measured. Published with ResNet-18, other settings: clusters 0.857.
_base_ = ['../_base_/default_runtime.py']

# data: views are made on the device
common = [
    dict(type='RandomResizedCrop', size=32, scale=(0.3, 1.0)),
    dict(type='RandomHorizontalFlip', p=0.5),
    dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, p=0.8),
    dict(type='RandomGrayscale', p=0.2),
]
views = [
    [*common, dict(type='GaussianBlur', sigma=(0.1, 2.0), p=1.0)],
    [
        *common,
        dict(type='GaussianBlur', sigma=(0.1, 2.0), p=0.1),
        dict(type='RandomSolarize', threshold=0.5, p=0.2),
    ],
]
train_dataloader = dict(
    batch_size=128,
    num_workers=0,
    drop_last=True,
    sampler=dict(type='TruncatedSampler', shuffle=True),
    collate_fn=dict(type='mmcoke.unlabelled_batch'),
    dataset=dict(
        type='InMemoryImages',
        source=dict(type='CIFAR10', data_root='data/cifar10', split='train'),
        device='auto',
        pipeline=[dict(type='PackInputs')],
    ),
)

# method
norm_cfg = dict(type='BN1d')
model = dict(
    type='CoKe',
    data_preprocessor=dict(
        type='BatchAugmentPreprocessor',
        mean=[125.31, 122.95, 113.87],
        std=[62.99, 62.09, 66.70],
        views=views,
        channels_last=True,
    ),
    backbone=dict(type='ResNet_CIFAR', depth=18, norm_cfg=dict(type='BN')),
    neck=dict(
        type='NonLinearNeck',
        hid_channels=512,
        out_channels=128,
        num_layers=2,
        with_last_bn=False,
        with_last_bias=True,
        with_avg_pool=True,
        norm_cfg=norm_cfg,
    ),
    head=dict(
        type='CoKeHead',
        in_channels=128,
        hid_channels=512,
        temperature=0.05,
        prediction_weight=0.5,
        label_weight=0.2,
        norm_cfg=norm_cfg,
    ),
    clustering=dict(
        num_clusters=[10, 20, 30, 40, 50, 60, 70, 80, 90, 100],
        min_ratio=0.9,
        dual_lr=0.1,
        dual_lr_base_batch_size=128,
    ),
)

# schedule
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.2, momentum=0.9, weight_decay=1e-4, fused=True),
)
param_scheduler = [dict(type='WarmupCosineLR', zero=1, warmup=10, convert_to_iter_based=True)]
# machine: compiling does not change results but for rounding
train_cfg = dict(type='CapturedTrainLoop', max_epochs=401, compile_network=True)
auto_scale_lr = dict(base_batch_size=128, enable=False)
