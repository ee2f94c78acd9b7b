# SeCu, ResNet-18, on the training images of CIFAR-100, for its 20 groups of classes: the published
# recipe (Qian, ICCV 2023).
#
#   python tools/train.py configs/selfsup/secu/secu_r18_1xb128_cifar100.py
#
# Differs from the published code as the recipe of CIFAR-10 does. Hardware: 1 GPU. Time, expected:
# not measured. Reported for ResNet-18 with the author's recipe, by the DCBoost paper (not run by
# this project): clusters 0.552, NMI 0.551, ARI 0.397.
_base_ = '../coke/coke_r18_1xb128-2view_cifar100.py'

# method
model = dict(
    type='SeCu',
    head=dict(_delete_=True, type='SeCuHead', in_channels=128, temperature=0.05, label_weight=0.2),
    clustering=dict(center_lr=0.8, center_temperature=0.05),
)
