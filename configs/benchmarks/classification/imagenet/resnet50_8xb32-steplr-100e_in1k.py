# Linear evaluation on ImageNet-1k of the pooled output ("AvgPool"): OpenMMLab's recipe, which is
# that of MoCo (He et al., CVPR 2020).
#
#   bash tools/dist_train.sh THIS_FILE 8 --cfg-options model.backbone.init_cfg.checkpoint=PATH
#
# Hardware: 8 GPUs. Time: not measured. Expected, top-1: ODC 53.42 % (published by OpenMMLab,
# trained with OpenSelfSup).
# Not run at this scale by this project.
_base_ = [
    '../_base_/models/resnet50_linear.py',
    '../_base_/datasets/imagenet.py',
    '../../_base_/default_runtime.py',
]

# schedule
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr=30.0, momentum=0.9, weight_decay=0.0)
)
param_scheduler = [dict(type='MultiStepLR', milestones=[60, 80], gamma=0.1)]
train_cfg = dict(by_epoch=True, max_epochs=100, val_interval=10)
auto_scale_lr = dict(base_batch_size=256, enable=False)

default_hooks = dict(
    results=dict(
        protocol='ImageNet-1k validation accuracy in % of a linear classifier of the pooled output '
        'of the frozen backbone; 100 epochs of SGD, learning rate divided by 10 after epochs 60 '
        'and 80, no weight decay.'
    )
)
