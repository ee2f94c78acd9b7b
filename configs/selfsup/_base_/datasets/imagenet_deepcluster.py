# ImageNet-1k without labels, for DeepCluster and ODC: one augmented view for training, and plain
# images for the features that are clustered. Layout: data/imagenet/train/<class>/<image>.JPEG
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='NumpyToPIL', to_rgb=True),
    dict(type='torchvision/RandomResizedCrop', size=224),
    dict(type='torchvision/RandomHorizontalFlip'),
    dict(type='torchvision/RandomRotation', degrees=2),
    dict(
        type='torchvision/ColorJitter',
        brightness=0.4,
        contrast=0.4,
        saturation=1.0,
        hue=0.5,
    ),
    dict(type='torchvision/RandomGrayscale', p=0.2),
    dict(type='PILToNumpy'),
    dict(type='PackInputs'),
]
feature_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='NumpyToPIL', to_rgb=True),
    dict(type='torchvision/Resize', size=256),
    dict(type='torchvision/CenterCrop', size=224),
    dict(type='PILToNumpy'),
    dict(type='PackInputs'),
]

train_dataloader = dict(
    batch_size=64,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,  # all processes need batches of one size
    sampler=dict(type='TruncatedSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='CustomDataset',
        data_root='data/imagenet/',
        data_prefix='train',
        with_label=False,
        pipeline=train_pipeline,
    ),
)
