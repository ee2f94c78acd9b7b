# Linear evaluation on ImageNet-1k of all five stages: OpenMMLab's recipe, after Goyal et al., ICCV
# 2019.
#
#   bash tools/dist_train.sh THIS_FILE 8 --cfg-options model.backbone.init_cfg.checkpoint=PATH
#
# Hardware: 8 GPUs. Time: not measured. Expected, top-1 of stages 0-4: ODC 14.76, 31.82, 42.44,
# 55.76, 57.70 % (published by OpenMMLab, trained with OpenSelfSup).
# Not run at this scale by this project.
_base_ = [
    '../_base_/models/resnet50_mhead.py',
    '../_base_/datasets/imagenet.py',
    '../_base_/schedules/sgd_mhead.py',
    '../../_base_/default_runtime.py',
]

# data: the only one of these recipes that changes colours
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='NumpyToPIL', to_rgb=True),
    dict(type='torchvision/RandomResizedCrop', size=224),
    dict(type='torchvision/RandomHorizontalFlip'),
    dict(type='torchvision/ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4),
    dict(type='PILToNumpy'),
    # Principal components of ImageNet's colours (Krizhevsky et al., 2012); rows R, G, B
    dict(
        type='Lighting',
        eigval=[55.4625, 4.7940, 1.1475],
        eigvec=[
            [-0.5675, 0.7192, 0.4009],
            [-0.5808, -0.0045, -0.8140],
            [-0.5836, -0.6948, 0.4203],
        ],
        alphastd=0.1,
    ),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

# schedule
param_scheduler = [dict(type='MultiStepLR', milestones=[30, 60], gamma=0.1)]
train_cfg = dict(by_epoch=True, max_epochs=90, val_interval=10)
val_evaluator = dict(_delete_=True, type='MultiHeadAccuracy', topk=(1, 5))

default_hooks = dict(
    results=dict(
        protocol='ImageNet-1k validation accuracy in % of one linear classifier per stage of '
        'the frozen backbone (stage 0 is the stem), pooled to about 9,000 numbers; 90 epochs of '
        'SGD, learning rate divided by 10 after epochs 30 and 60.'
    )
)
