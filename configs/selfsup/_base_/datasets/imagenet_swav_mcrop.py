# ImageNet-1k without labels, for SwAV: two full-size views, and six crops of 96 pixels, all with
# the same strong colour augmentation.
_base_ = 'imagenet_coke.py'

full_size = dict(size=224, scale=(0.14, 1.0))
small = dict(size=96, scale=(0.05, 0.14))
train_pipeline = [
    dict(type='RandomResizedCrops', views=[*[full_size] * 2, *[small] * 6], flip=0.5),
    dict(type='PackInputs'),
]
data_preprocessor = dict(views=[{{_base_.strong}}] * 8)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
