# ImageNet-1k without labels, one view. Layout: data/imagenet/train/<class>/<image>.JPEG
#
# Workers decode and crop, the device does the rest in batch. The published pipeline, which leaves
# all to the workers, is imagenet_coke_pil.py, with the same parameters; choose it in _base_.
full_size = dict(size=224, scale=(0.08, 1.0))
strong = [
    dict(type='ColorJitter', brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, p=0.8),
    dict(type='RandomGrayscale', p=0.2),
    dict(type='GaussianBlur', sigma=(0.1, 2.0), p=0.5),
]

train_pipeline = [
    dict(type='RandomResizedCrops', views=[full_size], flip=0.5),
    dict(type='PackInputs'),
]
data_preprocessor = dict(
    type='BatchAugmentPreprocessor',
    views=[strong],
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
)

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
