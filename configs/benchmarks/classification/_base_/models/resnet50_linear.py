# Linear classifier of the pooled output of a frozen ResNet-50.
model = dict(
    type='FrozenClassifier',
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
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=1000),
)
