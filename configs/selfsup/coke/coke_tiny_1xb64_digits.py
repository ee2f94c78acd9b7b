# CoKe, one view, on the 1,257 training images of scikit-learn's digits: the quickstart.
#
#   bash tools/quickstart.sh
#   python tools/train.py configs/selfsup/coke/coke_tiny_1xb64_digits.py     (training only)
#
# Hardware: 2 CPU cores. Time: about 2 minutes. Expected, clusters against digits: accuracy 0.966,
# NMI 0.944 (median of seeds 0, 1, 2).
_base_ = ['../_base_/default_runtime.py']

# data: augmentation is part of the model's preprocessor; names of mmcoke.augmentation
view = [
    dict(
        type='RandomAffine',
        degrees=20.0,
        translate=(0.12, 0.12),
        scale=(0.74, 1.35),
        shear=(-17.0, 17.0, -17.0, 17.0),
        p=1.0,
    ),
    dict(type='RandomContrast', contrast=(0.6, 1.4), p=1.0),
    dict(type='RandomGaussianNoise', std=0.1, p=1.0),
]
pipeline = [dict(type='Resize', scale=(16, 16)), dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    drop_last=True,
    sampler=dict(type='TruncatedSampler', shuffle=True),
    collate_fn=dict(type='mmcoke.unlabelled_batch'),
    dataset=dict(type='InMemoryImages', source='digits', split='train', pipeline=pipeline),
)

# method
norm_cfg = dict(type='BN1d')
model = dict(
    type='CoKe',
    data_preprocessor=dict(
        type='BatchAugmentPreprocessor',
        mean=[76.5],
        std=[89.25],
        views=[view],
    ),
    backbone=dict(type='PlainConvNet', in_channels=1),
    neck=dict(
        type='NonLinearNeck',
        hid_channels=128,
        out_channels=64,
        num_layers=2,
        norm_cfg=norm_cfg,
    ),
    head=dict(
        type='CoKeHead',
        in_channels=64,
        hid_channels=128,
        temperature=0.2,
        prediction_weight=0.5,
        norm_cfg=norm_cfg,
    ),
    clustering=dict(
        num_clusters=[20, 24, 32],
        min_ratio=0.4,
        dual_lr=2.0,
        dual_lr_base_batch_size=64,
    ),
)

# schedule
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.2, momentum=0.9, weight_decay=1e-4, fused=True),
)
param_scheduler = [dict(type='WarmupCosineLR', zero=1, warmup=10, convert_to_iter_based=True)]
train_cfg = dict(type='CapturedTrainLoop', max_epochs=231)
auto_scale_lr = dict(base_batch_size=64, enable=False)
