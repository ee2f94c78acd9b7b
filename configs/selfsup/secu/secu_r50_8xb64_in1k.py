# SeCu, ResNet-50, ImageNet: the settings of the published code (Qian, ICCV 2023), 1000 epochs and
# the zero-lr one. With a predictor, and centers that learn by LARS.
#
#   bash tools/dist_train.sh configs/selfsup/secu/secu_r50_8xb64_in1k.py 8
#
# Hardware: 8 GPUs. Time, expected: not measured. Not run at this scale by this project. Published
# with 8 x 128 images; both learning rates and dual_lr are scaled to 8 x 64.
_base_ = [
    '../_base_/models/coke_r50.py',
    '../_base_/datasets/imagenet_coke_2view.py',
    '../_base_/schedules/lars_coke_1000e.py',
    '../_base_/default_runtime.py',
]

# method
model = dict(
    type='SeCu',
    data_preprocessor={{_base_.data_preprocessor}},
    head=dict(
        _delete_=True,
        type='SeCuHead',
        in_channels=128,
        hid_channels=2048,
        temperature=0.05,
        label_weight=0.2,
        norm_cfg={{_base_.norm_cfg}},
    ),
    clustering=dict(
        num_clusters=[1000, 2000, 3000, 4000, 5000, 6000, 7000, 8000, 9000, 10000],
        center_lr=2.1,  # 4.2 * 512 / 1024
        momentum=0.9,
        weight_decay=1e-6,
        trust_coefficient=0.001,
        center_temperature=0.05,
    ),
)

# schedule
optim_wrapper = dict(optimizer=dict(lr=0.8))  # 1.6 * 512 / 1024
auto_scale_lr = dict(base_batch_size=512)
