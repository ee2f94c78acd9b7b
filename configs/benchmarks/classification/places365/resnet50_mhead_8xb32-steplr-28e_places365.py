# Linear evaluation on Places365 of all five stages, by the recipe of Places205, whose links are
# dead. Not comparable with figures on Places205: there are 160 classes more.
#
#   bash tools/dist_train.sh THIS_FILE 8 --cfg-options model.backbone.init_cfg.checkpoint=PATH
#
# Hardware: 8 GPUs. Time: not measured. Expected: not published.
# Not run at this scale by this project.
_base_ = [
    '../_base_/models/resnet50_mhead.py',
    '../_base_/datasets/places365.py',
    '../_base_/schedules/sgd_mhead.py',
    '../../_base_/default_runtime.py',
]

model = dict(head=dict(num_classes=365))

# schedule
param_scheduler = [dict(type='MultiStepLR', milestones=[7, 14, 21], gamma=0.1)]
train_cfg = dict(by_epoch=True, max_epochs=28, val_interval=7)
val_evaluator = dict(_delete_=True, type='MultiHeadAccuracy', topk=(1, 5))

default_hooks = dict(
    results=dict(
        protocol='Places365 validation accuracy in % of one linear classifier per stage of '
        'the frozen backbone (stage 0 is the stem), pooled to about 9,000 numbers; 28 epochs of '
        'SGD, learning rate divided by 10 after epochs 7, 14 and 21.'
    )
)
