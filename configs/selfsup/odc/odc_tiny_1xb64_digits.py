# ODC on the 1,257 training images of scikit-learn's digits.
#
#   bash tools/quickstart.sh --config configs/selfsup/odc/odc_tiny_1xb64_digits.py
#
# Hardware: 2 CPU cores. Time: about 1.5 minutes. Expected: kNN 0.980, linear 0.987, clusters
# against digits 0.943, NMI 0.906 (each the median of seeds 0, 1, 2).
_base_ = '../coke/coke_tiny_1xb64_digits.py'

# data: CoKe's augmentation at 0.8 of its strength. In the end it matters little: kNN 0.976, linear
# 0.991, clusters 0.954 with it; 0.978, 0.993, 0.947 with CoKe's (seed 0).
view = [
    dict(
        type='RandomAffine',
        degrees=16.0,
        translate=(0.1, 0.1),
        scale=(0.79, 1.27),
        shear=(-14.0, 14.0, -14.0, 14.0),
        p=1.0,
    ),
    dict(type='RandomContrast', contrast=(0.7, 1.3), p=1.0),
    dict(type='RandomGaussianNoise', std=0.08, p=1.0),
]
train_dataloader = dict(sampler=dict(_delete_=True, type='ReplacementSampler'))

# method
model = dict(
    type='ODC',
    data_preprocessor=dict(views=[view]),
    # Not as published:
    # - dropout 0.5: kNN 0.983, linear 0.993, clusters 0.910 with it; 0.976, 0.991, 0.954 without
    #   (seed 0).
    # - momentum 0.001: statistics for evaluation lag behind in a run of 2,850 iterations. Clusters
    #   0.953 and 0.914 with it, 0.954 and 0.943 with 0.1 (seeds 0 and 1).
    # - 512 and 256 channels: in a trial of 21 epochs the purity of the labels was 0.86 with them,
    #   0.92 with twice as many (seed 0).
    neck=dict(
        _delete_=True,
        type='ODCNeck',
        hid_channels=1024,
        out_channels=512,
        dropout=0.0,
        norm_cfg=dict(type='BN1d', momentum=0.1),
    ),
    head=dict(_delete_=True, type='ClusterClsHead'),
    clustering=dict(_delete_=True, num_clusters=30, min_size=10),
)
custom_hooks = [dict(type='ODCHook', pipeline={{_base_.pipeline}}, batch_size=256)]

# schedule
optim_wrapper = dict(
    optimizer=dict(lr=0.06),
    paramwise_cfg=dict(custom_keys=dict(head=dict(momentum=0.0))),
)
# No warm-up: the first labels decay while the network stands still. Clusters after 40 epochs of a
# trial: 0.82, and 0.69 when the first two had learning rate 0 (seed 0).
param_scheduler = [dict(type='WarmupCosineLR', zero=0, warmup=0, convert_to_iter_based=True)]
train_cfg = dict(max_epochs=150)
