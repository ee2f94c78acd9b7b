# imagenet_coke.py as it was published: everything by torchvision and Pillow in the workers.
_base_ = 'imagenet_coke.py'

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='NumpyToPIL', to_rgb=True),
    dict(type='torchvision/RandomResizedCrop', size=224, scale=(0.08, 1.0)),
    dict(
        type='RandomApply',
        prob=0.8,
        transforms=[
            dict(
                type='torchvision/ColorJitter',
                brightness=0.8,
                contrast=0.8,
                saturation=0.8,
                hue=0.2,
            )
        ],
    ),
    dict(type='torchvision/RandomGrayscale', p=0.2),
    dict(type='PILToNumpy'),
    dict(type='GaussianBlur', magnitude_range=(0.1, 2.0), magnitude_std='inf', prob=0.5),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
data_preprocessor = dict(
    _delete_=True,
    type='SelfSupDataPreprocessor',
    mean={{_base_.data_preprocessor.mean}},
    std={{_base_.data_preprocessor.std}},
)

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
