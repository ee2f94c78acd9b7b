# CoKe, two views, ResNet-18, on the training images of CIFAR-100, for its 20 groups of classes: the
# authors' later recipe (that of SeCu, with CoKe's clustering).
#
#   python tools/train.py configs/selfsup/coke/coke_r18_1xb128-2view_cifar100.py
#
# Without a download by mmpretrain: unpack cifar-100-python.tar.gz into data/cifar100, and look with
# python tools/check_data.py cifar data/cifar100
#
# Hardware: 1 GPU. Time, expected: not measured. Published with ResNet-18, other settings: clusters
# 0.497.
_base_ = 'coke_r18_1xb128-2view_cifar10.py'

# data
common = [
    dict(type='RandomResizedCrop', size=32, scale=(0.2, 1.0)),
    dict(type='RandomHorizontalFlip', p=0.5),
    dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, p=0.8),
    dict(type='RandomGrayscale', p=0.2),
]
views = [
    [*common, dict(type='GaussianBlur', sigma=(0.1, 2.0), p=1.0)],
    [
        *common,
        dict(type='GaussianBlur', sigma=(0.1, 2.0), p=0.1),
        dict(type='RandomSolarize', threshold=0.5, p=0.2),
    ],
]
train_dataloader = dict(
    dataset=dict(source=dict(type='CIFAR100Coarse', data_root='data/cifar100', split='train'))
)

# method
model = dict(
    data_preprocessor=dict(
        mean=[129.30, 124.07, 112.43],
        std=[68.17, 65.39, 70.42],
        views=views,
    ),
    clustering=dict(num_clusters=[20, 40, 60, 80, 100, 120, 140, 160, 180, 200]),
)

# schedule
train_cfg = dict(max_epochs=801)
