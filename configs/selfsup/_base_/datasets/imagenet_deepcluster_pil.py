# imagenet_deepcluster.py as it was published: everything by torchvision and Pillow in the workers.
_base_ = 'imagenet_deepcluster.py'

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
data_preprocessor = dict(
    _delete_=True,
    type='SelfSupDataPreprocessor',
    mean={{_base_.data_preprocessor.mean}},
    std={{_base_.data_preprocessor.std}},
)

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
