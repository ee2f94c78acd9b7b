# ImageNet-1k without labels, two views: blur on the first, rarely blur and solarize on the second.
# The published pipeline: imagenet_coke_2view_pil.py.
_base_ = 'imagenet_coke.py'

weak = [
    dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, p=0.8),
    dict(type='RandomGrayscale', p=0.2),
]
blur = dict(type='GaussianBlur', sigma=(0.1, 2.0))
first_view = [*weak, dict(**blur, p=1.0)]
second_view = [*weak, dict(**blur, p=0.1), dict(type='RandomSolarize', threshold=128 / 255, p=0.2)]

train_pipeline = [
    dict(type='RandomResizedCrops', views=[{{_base_.full_size}}, {{_base_.full_size}}], flip=0.5),
    dict(type='PackInputs'),
]
data_preprocessor = dict(views=[first_view, second_view])
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
