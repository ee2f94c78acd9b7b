# imagenet_coke_mcrop.py as it was published: by torchvision and Pillow in the workers.
_base_ = 'imagenet_coke_2view_pil.py'

small_crop = [
    dict(type='torchvision/RandomResizedCrop', size=96, scale=(0.05, 0.6)),
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
]
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='NumpyToPIL', to_rgb=True),
    dict(
        type='MultiView',
        num_views=[1, 1, 6],
        transforms=[{{_base_.first_view}}, {{_base_.second_view}}, small_crop],
    ),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
