# CoKe, two views, ResNet-18, on the training images of CIFAR-10.
#
#   python tools/train.py configs/selfsup/coke/coke_r18_1xb128-2view_cifar10.py
#
# Without a download by mmpretrain: see ../_base_/datasets/cifar10_2view.py.
#
# Hardware: 1 GPU; the images lie on it, and each step is one CUDA graph. Time: not measured by this
# loop; the same step as a program of its own took 5.3 ms, 35 minutes for 1000 epochs of 390 steps
# (H200). Expected: not measured. Published with ResNet-18, other settings: clusters 0.857.
_base_ = [
    '../_base_/models/coke_r18_cifar.py',
    '../_base_/datasets/cifar10_2view.py',
    '../_base_/schedules/sgd_cifar_400e.py',
    '../_base_/default_runtime.py',
]

# method
model = dict(
    type='CoKe',
    data_preprocessor={{_base_.data_preprocessor}},
    head=dict(
        type='CoKeHead',
        hid_channels=512,
        prediction_weight=0.5,
        norm_cfg={{_base_.norm_cfg}},
    ),
)
