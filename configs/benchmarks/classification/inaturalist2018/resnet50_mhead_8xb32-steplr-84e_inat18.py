# Linear evaluation on iNaturalist 2018 of all five stages: OpenMMLab's recipe, after Goyal et al.,
# ICCV 2019.
#
#   bash tools/dist_train.sh THIS_FILE 8 --cfg-options model.backbone.init_cfg.checkpoint=PATH
#
# Hardware: 8 GPUs. Time: not measured. Expected: not published for CoKe, ODC or DeepCluster.
# Not run at this scale by this project.
_base_ = [
    '../_base_/models/resnet50_mhead.py',
    '../_base_/datasets/inaturalist2018.py',
    '../_base_/schedules/sgd_mhead.py',
    '../../_base_/default_runtime.py',
]

model = dict(head=dict(num_classes=8142))

# schedule
param_scheduler = [dict(type='MultiStepLR', milestones=[24, 48, 72], gamma=0.1)]
train_cfg = dict(by_epoch=True, max_epochs=84, val_interval=12)
val_evaluator = dict(_delete_=True, type='MultiHeadAccuracy', topk=(1, 5))

default_hooks = dict(
    results=dict(
        protocol='iNaturalist 2018 validation accuracy in % of one linear classifier per stage of '
        'the frozen backbone (stage 0 is the stem), pooled to about 9,000 numbers; 84 epochs of '
        'SGD, learning rate divided by 10 after epochs 24, 48 and 72.'
    )
)
