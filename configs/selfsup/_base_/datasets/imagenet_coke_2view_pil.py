# imagenet_coke_2view.py as it was published: by torchvision and Pillow in the workers.
_base_ = 'imagenet_coke_pil.py'

color_jitter = dict(
    type='RandomApply',
    prob=0.8,
    transforms=[
        dict(type='torchvision/ColorJitter', brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
    ],
)
blur = dict(type='GaussianBlur', magnitude_range=(0.1, 2.0), magnitude_std='inf')
first_view = [
    dict(type='torchvision/RandomResizedCrop', size=224, scale=(0.08, 1.0)),
    color_jitter,
    dict(type='torchvision/RandomGrayscale', p=0.2),
    dict(type='PILToNumpy'),
    dict(**blur, prob=1.0),
    dict(type='RandomFlip', prob=0.5),
]
second_view = [
    dict(type='torchvision/RandomResizedCrop', size=224, scale=(0.08, 1.0)),
    color_jitter,
    dict(type='torchvision/RandomGrayscale', p=0.2),
    dict(type='PILToNumpy'),
    dict(**blur, prob=0.1),
    dict(type='Solarize', thr=128, prob=0.2),
    dict(type='RandomFlip', prob=0.5),
]
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='NumpyToPIL', to_rgb=True),
    dict(type='MultiView', num_views=[1, 1], transforms=[first_view, second_view]),
    dict(type='PackInputs'),
]

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
