# ODC on the 1,257 training images of scikit-learn's digits.
#
#   bash tools/quickstart.sh --config configs/selfsup/odc/odc_tiny_1xb64_digits.py
_base_ = '../coke/coke_tiny_1xb64_digits.py'

# data
train_dataloader = dict(sampler=dict(_delete_=True, type='ReplacementSampler'))

# method
model = dict(
    type='ODC',
    neck=dict(
        _delete_=True,
        type='ODCNeck',
        hid_channels=128,
        out_channels=64,
        norm_cfg=dict(type='BN1d'),
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
param_scheduler = []
train_cfg = dict(max_epochs=100)
