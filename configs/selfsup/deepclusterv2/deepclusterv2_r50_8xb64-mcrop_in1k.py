# DeepCluster-v2, 2 x 224 + 6 x 96 crops: the published recipe (Caron et al., NeurIPS 2020).
#
#   bash tools/dist_train.sh configs/selfsup/deepclusterv2/deepclusterv2_r50_8xb64-mcrop_in1k.py 8
#
# Published with 4096 images and learning rate 4.8, linear in the batch. The first epoch, at rate 0,
# fills the memory; 800 epochs follow.
#
# Hardware: 8 GPUs; the memory takes 0.66 GB on each, and in a checkpoint. Time: not measured.
# Expected: 75.2 % ImageNet linear top-1 (published). Not run at this scale by this project.
_base_ = [
    '../_base_/models/swav_r50.py',
    '../_base_/datasets/imagenet_swav_mcrop.py',
    '../_base_/default_runtime.py',
]

# method
model = dict(
    type='DeepClusterV2',
    data_preprocessor={{_base_.data_preprocessor}},
    head=dict(type='CentroidHead', temperature=0.1),
    clustering=dict(num_clusters=[3000, 3000, 3000], num_iters=10),
)
custom_hooks = [dict(type='DeepClusterV2Hook')]

# schedule: 0.0375 to 0.6 within 10 epochs, then to 0.0006
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(  # 4.8 * 512 / 4096
        type='LARS', lr=0.6, momentum=0.9, weight_decay=1e-6, trust_coefficient=0.001
    ),
)
param_scheduler = [
    dict(
        type='WarmupCosineLR',
        zero=1,
        warmup=10,
        start_factor=0.0625,
        end_factor=0.001,
        convert_to_iter_based=True,
    )
]
train_cfg = dict(by_epoch=True, max_epochs=801)
auto_scale_lr = dict(base_batch_size=512, enable=False)
