# SeCu, ResNet-18, on the 105,000 images of STL-10 that are not for testing: the published recipe
# (Qian, ICCV 2023), but for the network, which is that of CoKe's recipe.
#
#   python tools/train.py configs/selfsup/secu/secu_r18_1xb128_stl10.py
#
# Hardware: 1 GPU, which holds the 2.9 GB of images. Time, expected: not measured. Reported for
# ResNet-18 with the author's recipe, by the DCBoost paper (not run by this project): clusters
# 0.836, NMI 0.733, ARI 0.693.
_base_ = '../coke/coke_r18_1xb128-2view_stl10.py'

# method
model = dict(
    type='SeCu',
    head=dict(_delete_=True, type='SeCuHead', in_channels=128, temperature=0.05, label_weight=0.2),
    clustering=dict(center_lr=0.8, center_temperature=1.0),
)
