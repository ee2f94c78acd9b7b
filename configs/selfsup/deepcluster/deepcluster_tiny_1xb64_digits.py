# DeepCluster on the 1,257 training images of scikit-learn's digits.
#
#   bash tools/quickstart.sh --config configs/selfsup/deepcluster/deepcluster_tiny_1xb64_digits.py
_base_ = '../coke/coke_tiny_1xb64_digits.py'

# data
train_dataloader = dict(sampler=dict(_delete_=True, type='ClusterUniformSampler'))

# method
model = dict(
    type='DeepCluster',
    neck=dict(_delete_=True, type='GlobalAveragePooling'),
    head=dict(_delete_=True, type='ClusterClsHead'),
    clustering=dict(_delete_=True, num_clusters=30, pca_dim=32),
)
custom_hooks = [dict(type='DeepClusterHook', pipeline={{_base_.pipeline}}, batch_size=256)]

# schedule
optim_wrapper = dict(
    optimizer=dict(lr=0.05),
    paramwise_cfg=dict(custom_keys=dict(head=dict(momentum=0.0))),
)
param_scheduler = []
train_cfg = dict(max_epochs=100)
