# Mask R-CNN, ResNet-50 C4, fine-tuned on COCO train2017, tested on val2017: the protocol of MoCo
# (He et al., CVPR 2020) and of OpenMMLab's model zoo, 12 epochs of batches of 16.
#
#   w=work_dirs/NAME/epoch_N.pth
#   bash tools/dist_train.sh configs/benchmarks/mmdetection/coco/mask-rcnn_r50-c4_ms-1x_coco.py 8 \
#       --cfg-options model.backbone.init_cfg.checkpoint=$w \
#       model.roi_head.shared_head.init_cfg.checkpoint=$w
#
# Hardware: 8 GPUs, 2 images on each (others: --auto-scale-lr). Needs mmcoke[det]; data:
# docs/benchmarks.md. Result: coco/bbox_mAP, coco/segm_mAP. Time: not measured. Not run at this
# scale by this project.
_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50-caffe-c4_1x_coco.py'
custom_imports = dict(imports=['mmpretrain.models.utils.res_layer_extra_norm'])

# method: all layers are trained; stage 4 and a new batch norm after it are the RoI head
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    # of images as in pre-training: the base has those of Caffe's weights
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True
    ),
    backbone=dict(
        style='pytorch',
        frozen_stages=-1,
        norm_cfg=norm_cfg,
        norm_eval=False,
        init_cfg=dict(_delete_=True, type='mmcoke.StrictPretrained', checkpoint=None),
    ),
    roi_head=dict(
        shared_head=dict(
            type='ResLayerExtraNorm',
            style='pytorch',
            norm_cfg=norm_cfg,
            norm_eval=False,
            init_cfg=dict(type='mmcoke.StrictPretrained', checkpoint=None, new=['norm.']),
        )
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
        protocol='AP on COCO val2017 of Mask R-CNN C4: the backbone fine-tuned on train2017.',
    ),
    # machine: does not change results
    checkpoint=dict(max_keep_ckpts=2, backend_args=dict(backend='whole_files')),
)
