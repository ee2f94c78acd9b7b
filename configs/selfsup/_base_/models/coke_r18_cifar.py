# ResNet-18 for images of 32 pixels (3x3 stem, no max-pool), projector and clusterings that CoKe and
# SeCu share. The algorithm, its head and the data preprocessor come with the recipe.
norm_cfg = dict(type='BN1d')
model = dict(
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
    head=dict(in_channels=128, temperature=0.05, label_weight=0.2),
    clustering=dict(
        num_clusters=[10, 20, 30, 40, 50, 60, 70, 80, 90, 100],
        min_ratio=0.9,
        dual_lr=0.1,
        dual_lr_base_batch_size=128,
    ),
)
