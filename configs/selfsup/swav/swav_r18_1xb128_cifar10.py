# SwAV, two views, ResNet-18, on the training images of CIFAR-10: network, augmentation and length
# of CoKe's recipe with two views.
#
#   python tools/train.py configs/selfsup/swav/swav_r18_1xb128_cifar10.py
#
# SwAV's authors have no recipe for CIFAR-10. Prototypes, temperatures and queue are those for
# ImageNet, as in solo-learn's recipe for CIFAR-10 (1000 epochs of 256 images, wider projector,
# queue from epoch 50, prototypes frozen for 2 epochs; 89.17 % linear, published); the optimizer is
# solo-learn's, its learning rate of 0.6 scaled to 128 images, but for its trust coefficient of
# 0.02, which is clipped there and not here: with it features lose their rank in the first epochs
# (docs/methods/swav.md).
# Hardware: 1 GPU; the images lie on it, and each step is one CUDA graph. Time, expected: not
# measured.
_base_ = '../coke/coke_r18_1xb128-2view_cifar10.py'

# method
model = dict(
    type='SwAV',
    head=dict(_delete_=True, type='SwAVHead', in_channels=128, temperature=0.1, freeze_epochs=2),
    clustering=dict(
        _delete_=True,
        num_clusters=3000,
        temperature=0.05,
        num_iters=3,
        queue_length=3840,
        queue_from_epoch=50,
    ),
)
custom_hooks = [dict(type='SwAVHook')]

# schedule
optim_wrapper = dict(
    optimizer=dict(
        _delete_=True,
        type='LARS',
        lr=0.3,
        momentum=0.9,
        weight_decay=1e-6,
        trust_coefficient=0.002,
    ),
    paramwise_cfg=dict(custom_keys={'head.prototypes': dict(decay_mult=0.0)}),
)
param_scheduler = [dict(type='WarmupCosineLR', zero=0, warmup=10, convert_to_iter_based=True)]
train_cfg = dict(max_epochs=400)
