# ResNet-50 with the projector and predictor of CoKe. Without distributed training, and on CPU,
# mmengine and mmcoke turn SyncBN into BN. The data preprocessor comes with the data set.
norm_cfg = dict(type='SyncBN', requires_grad=True)

model = dict(
    type='CoKe',
    backbone=dict(type='ResNet', depth=50, norm_cfg=norm_cfg, zero_init_residual=False),
    # BN after every layer, the last one included; in_channels follows the backbone
    neck=dict(
        type='NonLinearNeck',
        hid_channels=2048,
        out_channels=128,
        num_layers=3,
        with_bias=True,
        with_last_bn=True,
        with_last_bias=True,
        with_avg_pool=True,
        norm_cfg=norm_cfg,
    ),
    head=dict(
        type='CoKeHead',
        in_channels=128,  # = out_channels of the neck
        hid_channels=2048,
        temperature=0.1,
        prediction_weight=1.0,
        norm_cfg=norm_cfg,
    ),
    clustering=dict(
        num_clusters=[3000, 4000, 5000],
        min_ratio=0.4,
        dual_lr=20.0,
        dual_lr_base_batch_size=1024,  # scaled from there to the images of a dual step
    ),
)
