# What SwAV and DeepCluster-v2 share: ResNet-50 and a projector without BN behind its last layer.
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    backbone=dict(type='ResNet', depth=50, norm_cfg=norm_cfg, zero_init_residual=False),
    neck=dict(
        type='NonLinearNeck',
        hid_channels=2048,
        out_channels=128,
        num_layers=2,
        with_bias=True,
        with_last_bn=False,
        with_last_bias=True,
        with_avg_pool=True,
        norm_cfg=norm_cfg,
    ),
)
