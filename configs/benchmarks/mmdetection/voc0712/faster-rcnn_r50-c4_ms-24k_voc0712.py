# Faster R-CNN, ResNet-50 C4, fine-tuned on VOC 2007 and 2012 trainval, tested on VOC 2007 test: the
# protocol of MoCo (He et al., CVPR 2020) and of OpenMMLab's model zoo, 24,000 iterations of 16.
#
#   w=work_dirs/NAME/epoch_N.pth
#   bash tools/dist_train.sh \
#       configs/benchmarks/mmdetection/voc0712/faster-rcnn_r50-c4_ms-24k_voc0712.py 8 \
#       --cfg-options model.backbone.init_cfg.checkpoint=$w \
#       model.roi_head.shared_head.init_cfg.checkpoint=$w
#
# Hardware: 8 GPUs, 2 images on each (others: --auto-scale-lr). Needs mmcoke[det]; data:
# docs/benchmarks.md. Result: pascal_voc/mAP (AP, over IoU 0.5 ... 0.95), AP50, AP75. Time: not
# measured. Not run at this scale by this project.
_base_ = 'mmdet::pascal_voc/faster-rcnn_r50-caffe-c4_ms-18k_voc0712.py'
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
            init_cfg=dict(
                _delete_=True, type='mmcoke.StrictPretrained', checkpoint=None, new=['norm.']
            ),
        )
    ),
)
# VOC 2007 and 2012 differ in what is evaluated how, which training does not read.
train_dataloader = dict(dataset=dict(ignore_keys=['dataset_type']))
val_evaluator = dict(iou_thrs=[0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95])
test_evaluator = val_evaluator

# schedule
max_iter = 24000
train_cfg = dict(max_iters=max_iter, val_interval=max_iter)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=100),
    dict(
        type='MultiStepLR',
        by_epoch=False,
        begin=0,
        end=max_iter,
        milestones=[18000, 22000],
        gamma=0.1,
    ),
]

default_hooks = dict(
    results=dict(
        type='mmcoke.ResultsHook',
        protocol='AP on VOC 2007 test, with 11 points (mAP: mean over IoU 0.5 to 0.95), of Faster '
        'R-CNN C4: the backbone fine-tuned on VOC 2007 and 2012 trainval.',
    ),
    # machine: does not change results
    checkpoint=dict(interval=2000, max_keep_ckpts=2, backend_args=dict(backend='whole_files')),
)
