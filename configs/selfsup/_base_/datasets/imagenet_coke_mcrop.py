# ImageNet-1k without labels: two full-size views, and six crops of 96 pixels. The published
# pipeline: imagenet_coke_mcrop_pil.py.
_base_ = 'imagenet_coke_2view.py'

small = dict(size=96, scale=(0.05, 0.6))
train_pipeline = [
    dict(
        type='RandomResizedCrops',
        views=[{{_base_.full_size}}, {{_base_.full_size}}, *[small] * 6],
        flip=0.5,
    ),
    dict(type='PackInputs'),
]
data_preprocessor = dict(
    views=[{{_base_.first_view}}, {{_base_.second_view}}, *[{{_base_.strong}}] * 6]
)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
