# Mask R-CNN, ResNet-50 FPN, fine-tuned on COCO train2017, tested on val2017: the protocol of MoCo
# (He et al., CVPR 2020) and of OpenMMLab's model zoo, 12 epochs of batches of 16.
#
#   bash tools/dist_train.sh configs/benchmarks/mmdetection/coco/mask-rcnn_r50_fpn_ms-1x_coco.py 8 \
#       --cfg-options model.backbone.init_cfg.checkpoint=work_dirs/NAME/epoch_N.pth
#
# Hardware: 8 GPUs, 2 images on each (others: --auto-scale-lr). Needs mmcoke[det]; data:
# docs/benchmarks.md. Result: coco/bbox_mAP, coco/segm_mAP. Time: not measured. Not run at this
# scale by this project.
_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'

# method: all layers are trained, and all new ones have batch norm over all GPUs
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    backbone=dict(
        frozen_stages=-1,
        norm_cfg=norm_cfg,
        norm_eval=False,
        init_cfg=dict(_delete_=True, type='mmcoke.StrictPretrained', checkpoint=None),
    ),
    neck=dict(norm_cfg=norm_cfg),
    roi_head=dict(
        bbox_head=dict(type='Shared4Conv1FCBBoxHead', norm_cfg=norm_cfg),
        mask_head=dict(norm_cfg=norm_cfg),
    ),
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='RandomChoiceResize',
        scales=[(1333, side) for side in range(640, 801, 32)],
        keep_ratio=True,
    ),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

default_hooks = dict(
    results=dict(
        type='mmcoke.ResultsHook',
        protocol='AP on COCO val2017 of Mask R-CNN FPN: the backbone fine-tuned on train2017.',
    ),
    # machine: does not change results
    checkpoint=dict(max_keep_ckpts=2, backend_args=dict(backend='whole_files')),
)
