# Linear classifiers of the stem and the four stages of a frozen ResNet-50, each pooled to about
# 9,000 numbers. Without distributed training, and on CPU, mmengine and mmcoke turn SyncBN into BN.
model = dict(
    type='FrozenStagesClassifier',
    data_preprocessor=dict(
        type='ClsDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
    ),
    backbone=dict(
        type='ResNet',
        depth=50,
        zero_init_residual=False,
        init_cfg=dict(type='Pretrained', checkpoint=None),  # required
    ),
    head=dict(
        type='MultiLinearHead',
        num_classes=1000,
        norm_cfg=dict(type='SyncBN', momentum=0.1, affine=False),
    ),
)
