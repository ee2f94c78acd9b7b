# Linear evaluation on ImageNet-1k as CoKe publishes it (Qian et al., CVPR 2022), for one view.
#
#   bash tools/dist_train.sh THIS_FILE 8 --cfg-options model.backbone.init_cfg.checkpoint=PATH
#
# Hardware: 8 GPUs. Time: not measured. Expected, top-1: CoKe with one view 72.5 % (published by
# its authors). With two views they report 74.9 %, without the learning rate; for multi-crop see
# resnet50_8xb128-coslr-90e-mcrop_in1k.py.
# Not run at this scale by this project.
_base_ = [
    '../_base_/models/resnet50_linear.py',
    '../_base_/datasets/imagenet.py',
    '../../_base_/default_runtime.py',
]

train_dataloader = dict(batch_size=128)

# schedule: cosine, a step per epoch as published
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr=0.2, momentum=0.9, weight_decay=1e-6)
)
param_scheduler = [dict(type='CosineAnnealingLR', T_max=90)]
train_cfg = dict(by_epoch=True, max_epochs=90, val_interval=10)
auto_scale_lr = dict(base_batch_size=1024, enable=False)

default_hooks = dict(
    results=dict(
        protocol='ImageNet-1k validation accuracy in % of a linear classifier of the pooled output '
        "of the frozen backbone; CoKe's protocol: 90 epochs of SGD, cosine, weight decay 1e-6."
    )
)
