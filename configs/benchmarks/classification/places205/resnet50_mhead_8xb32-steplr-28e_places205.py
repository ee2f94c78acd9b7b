# Linear evaluation on Places205 of all five stages: OpenMMLab's recipe, after Goyal et al., ICCV
# 2019. The data set's links are dead; without it see ../places365.
#
#   bash tools/dist_train.sh THIS_FILE 8 --cfg-options model.backbone.init_cfg.checkpoint=PATH
#
# Hardware: 8 GPUs. Time: not measured. Expected, top-1 of stages 0-4: ODC 19.28, 34.09, 40.90,
# 47.04, 48.35 % (published by OpenMMLab, trained with OpenSelfSup).
# Not run at this scale by this project.
_base_ = [
    '../_base_/models/resnet50_mhead.py',
    '../_base_/datasets/places205.py',
    '../_base_/schedules/sgd_mhead.py',
    '../../_base_/default_runtime.py',
]

model = dict(head=dict(num_classes=205))

# schedule
param_scheduler = [dict(type='MultiStepLR', milestones=[7, 14, 21], gamma=0.1)]
train_cfg = dict(by_epoch=True, max_epochs=28, val_interval=7)
val_evaluator = dict(_delete_=True, type='MultiHeadAccuracy', topk=(1, 5))

default_hooks = dict(
    results=dict(
        protocol='Places205 validation accuracy in % of one linear classifier per stage of '
        'the frozen backbone (stage 0 is the stem), pooled to about 9,000 numbers; 28 epochs of '
        'SGD, learning rate divided by 10 after epochs 7, 14 and 21.'
    )
)
