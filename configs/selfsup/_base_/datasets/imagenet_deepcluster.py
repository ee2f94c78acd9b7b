# ImageNet-1k without labels, for DeepCluster and ODC: one augmented view for training, and plain
# images for the features that are clustered. Layout: data/imagenet/train/<class>/<image>.JPEG
#
# Workers decode and crop, the device does the rest in batch. The published pipeline, which leaves
# all to the workers, is imagenet_deepcluster_pil.py, with the same parameters; choose it in _base_.
train_pipeline = [
    dict(type='RandomResizedCrops', views=[dict(size=224)], flip=0.5),
    dict(type='PackInputs'),
]
view = [
    dict(type='RandomAffine', degrees=2),
    dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=1.0, hue=0.5),
    dict(type='RandomGrayscale', p=0.2),
]
data_preprocessor = dict(
    type='BatchAugmentPreprocessor',
    views=[view],
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
)
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
    collate_fn=dict(type='mmcoke.unlabelled_batch'),
    dataset=dict(
        type='CustomDataset',
        data_root='data/imagenet/',
        data_prefix='train',
        with_label=False,
        pipeline=train_pipeline,
    ),
)
