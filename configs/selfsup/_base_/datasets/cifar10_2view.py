# The training images of CIFAR-10 without labels, two views, which are made on the device: blur on
# the first, rarely blur and solarize on the second.
#
# Without a download by mmpretrain: --cfg-options train_dataloader.dataset.source=cifar10_train.npz
# (x, uint8 (n, 32, 32, 3) in RGB).
common = [
    dict(type='RandomResizedCrop', size=32, scale=(0.3, 1.0)),
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
data_preprocessor = dict(
    type='BatchAugmentPreprocessor',
    mean=[125.31, 122.95, 113.87],
    std=[62.99, 62.09, 66.70],
    views=views,
    channels_last=True,
)
train_dataloader = dict(
    batch_size=128,
    num_workers=0,
    drop_last=True,
    sampler=dict(type='TruncatedSampler', shuffle=True),
    collate_fn=dict(type='mmcoke.unlabelled_batch'),
    dataset=dict(
        type='InMemoryImages',
        source=dict(type='CIFAR10', data_root='data/cifar10', split='train'),
        device='auto',
        pipeline=[dict(type='PackInputs')],
    ),
)
