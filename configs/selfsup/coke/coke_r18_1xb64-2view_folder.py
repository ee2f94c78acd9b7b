# CoKe, two views, on a folder of your own unlabelled images: what `mmcoke train FOLDER` fills in.
#
#   mmcoke train FOLDER
#
# Clusters, rates, batch, epochs, size and workers follow from the images and the machine
# (docs/train.md); those here are for some 800 photos on a CPU. With a loss that tells images apart
# to the end, CoKe's share growing to a third, and first labels by k-means (docs/methods/coke.md,
# "The start"). Measured in docs/train.md.
#
# Hardware: 1 CPU or GPU. Time and results: docs/train.md.
_base_ = ['../_base_/models/coke_r50.py', '../_base_/default_runtime.py']

# data
size = 64
view = dict(size=size, scale=(0.2, 1.0))
colour = [
    dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, p=0.8),
    dict(type='RandomGrayscale', p=0.2),
]
blur = dict(type='GaussianBlur', sigma=(0.1, 2.0))
train_pipeline = [
    dict(type='RandomResizedCrops', views=[view, view], flip=0.5),
    dict(type='PackInputs'),
]
# without augmentation
plain_pipeline = [
    dict(type='NumpyToPIL', to_rgb=True),
    dict(type='torchvision/Resize', size=73),
    dict(type='torchvision/CenterCrop', size=size),
    dict(type='PILToNumpy', to_bgr=False),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    sampler=dict(type='TruncatedSampler', shuffle=True),
    collate_fn=dict(type='mmcoke.unlabelled_batch'),
    dataset=dict(
        type='CustomDataset', data_root='data/images/', with_label=False, pipeline=train_pipeline
    ),
)

# method
width = 16  # channels of the first stage; 64 in the published ResNet-18
norm_cfg = dict(type='BN1d')
model = dict(
    data_preprocessor=dict(
        type='BatchAugmentPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        views=[
            [*colour, dict(**blur, p=0.5)],
            [*colour, dict(**blur, p=0.1), dict(type='RandomSolarize', threshold=0.5, p=0.2)],
        ],
    ),
    backbone=dict(depth=18, stem_channels=width, base_channels=width, norm_cfg=dict(type='BN')),
    neck=dict(hid_channels=512, num_layers=2, with_last_bn=False, norm_cfg=norm_cfg),
    head=dict(
        type='InstanceCoKeHead',
        hid_channels=256,
        label_weight=0.2,
        prediction_weight=0.5,
        instance_epochs=300,
        instance_decoupled=True,
        norm_cfg=norm_cfg,
    ),
    clustering=dict(num_clusters=[8, 16, 32], dual_lr=1.92, dual_lr_base_batch_size=64),
)
custom_hooks = [
    dict(type='CoKeHook'),
    dict(type='KMeansStartHook', pipeline=plain_pipeline),
]

# schedule
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=1e-4, fused=True),
)
param_scheduler = [dict(type='WarmupCosineLR', zero=1, warmup=10, convert_to_iter_based=True)]
train_cfg = dict(by_epoch=True, max_epochs=101)
auto_scale_lr = dict(base_batch_size=64, enable=False)
