# Places205, images of 256x256 pixels. Its download links are dead; who has it, has this layout:
#   data/places205/trainvalsplit_places205/{train,val}_places205.csv    lines "a/abbey/x.jpg 0"
#   data/places205/data/vision/torralba/deeplearning/images256/a/abbey/x.jpg
_base_ = 'imagenet.py'

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='NumpyToPIL', to_rgb=True),
    dict(type='torchvision/Resize', size=256),
    dict(type='torchvision/CenterCrop', size=256),
    dict(type='torchvision/RandomCrop', size=224),
    dict(type='torchvision/RandomHorizontalFlip'),
    dict(type='PILToNumpy'),
    dict(type='PackInputs'),
]

train_dataloader = dict(
    dataset=dict(
        type='Places205',
        data_root='data/places205/',
        ann_file='trainvalsplit_places205/train_places205.csv',
        data_prefix='data/vision/torralba/deeplearning/images256/',
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        type='Places205',
        data_root='data/places205/',
        ann_file='trainvalsplit_places205/val_places205.csv',
        data_prefix='data/vision/torralba/deeplearning/images256/',
    ),
)
