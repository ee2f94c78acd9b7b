# DeepCluster-v2, two views, ResNet-18, on the training images of CIFAR-10: network, augmentation,
# numbers of clusters and schedule of CoKe's recipe with two views.
#
#   python tools/train.py configs/selfsup/deepclusterv2/deepclusterv2_r18_1xb128_cifar10.py
#
# Without a download by mmpretrain: --cfg-options train_dataloader.dataset.source=cifar10_train.npz
# (x, uint8 (n, 32, 32, 3) in RGB).
#
# Hardware: 1 GPU. Time, expected: not measured; run for one epoch of 2,000 images on a CPU.
# Published by solo-learn with other settings, 1000 epochs: linear 88.85 %.
_base_ = '../coke/coke_r18_1xb128-2view_cifar10.py'

# method
model = dict(
    type='DeepClusterV2',
    head=dict(_delete_=True, type='CentroidHead', temperature=0.1),
    clustering=dict(_delete_=True, num_clusters=[10, 20, 30, 40, 50, 60, 70, 80, 90, 100]),
)
custom_hooks = [dict(type='DeepClusterV2Hook')]
