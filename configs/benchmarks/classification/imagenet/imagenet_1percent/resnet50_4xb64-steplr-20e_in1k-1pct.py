# Fine-tuning on 1 % of ImageNet-1k's labels: OpenMMLab's recipe.
#
#   python tools/benchmarks/label_list.py data/imagenet --percent 1
#   bash tools/dist_train.sh THIS_FILE 4 --cfg-options model.backbone.init_cfg.checkpoint=PATH
#
# The published figure is the best of nine runs, with learning rates 0.001, 0.01 and 0.1, times 1,
# 10 and 100 for the head; so also with options such as
#   optim_wrapper.optimizer.lr=0.1 optim_wrapper.paramwise_cfg.custom_keys.head.lr_mult=10
#
# Hardware: 4 GPUs. Time: not measured. Expected, top-1: ODC 32.39 % (published by OpenMMLab,
# trained with OpenSelfSup).
# Not run at this scale by this project.
_base_ = [
    '../../_base_/models/resnet50_finetune.py',
    '../../_base_/datasets/imagenet.py',
    '../../../_base_/default_runtime.py',
]

train_dataloader = dict(batch_size=64, dataset=dict(ann_file='meta/train_1percent.txt'))

# schedule
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4),
    paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=1.0))),
)
param_scheduler = [dict(type='MultiStepLR', milestones=[12, 16], gamma=0.2)]
train_cfg = dict(by_epoch=True, max_epochs=20, val_interval=5)
auto_scale_lr = dict(base_batch_size=256, enable=False)

default_hooks = dict(
    logger=dict(interval=10),
    results=dict(
        protocol='ImageNet-1k validation accuracy in % after fine-tuning all layers on 1 % of '
        'the labels; 20 epochs of SGD, learning rate times 0.2 after epochs 12 and 16. Published '
        'figures are the best of nine pairs of learning rates.'
    ),
)
