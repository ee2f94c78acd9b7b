# CoKe, one view, ResNet-18, on the training images of CIFAR-10.
#
#   python tools/train.py configs/selfsup/coke/coke_r18_1xb128_cifar10.py
#
# Hardware: 1 GPU; see the recipe with two views. Time, expected: not measured.
_base_ = 'coke_r18_1xb128-2view_cifar10.py'

# method
view = [
    dict(type='RandomResizedCrop', size=32, scale=(0.3, 1.0)),
    dict(type='RandomHorizontalFlip', p=0.5),
    dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, p=0.8),
    dict(type='RandomGrayscale', p=0.2),
    dict(type='GaussianBlur', sigma=(0.1, 2.0), p=0.5),
]
model = dict(data_preprocessor=dict(views=[view]), head=dict(temperature=0.1))
