# CoKe, two views, ResNet-18, on the 105,000 images of STL-10 that are not for testing: the authors'
# later recipe (that of SeCu, with CoKe's clustering). The size of the images, 96, and a network
# that starts at this size are this project's choice.
#
#   python tools/train.py configs/selfsup/coke/coke_r18_1xb128-2view_stl10.py
#
# Data: unpack stl10_binary.tar.gz into data/stl10, and look with
# python tools/check_data.py stl10 data/stl10
#
# Hardware: 1 GPU, which holds the 2.9 GB of images. Time, expected: not measured.
_base_ = 'coke_r18_1xb128-2view_cifar10.py'

# data
common = [
    dict(type='RandomResizedCrop', size=96, scale=(0.2, 1.0)),
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
    dataset=dict(source=dict(type='STL10', data_root='data/stl10', split='train+unlabeled'))
)

# method
model = dict(data_preprocessor=dict(views=views))

# schedule
train_cfg = dict(max_epochs=801)
