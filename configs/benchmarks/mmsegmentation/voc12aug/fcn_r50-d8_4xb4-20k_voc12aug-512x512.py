# FCN, ResNet-50 with dilated last stages, fine-tuned on VOC 2012 train and its augmentation
# (Hariharan et al., ICCV 2011), tested on val: the protocol of OpenMMLab's model zoo, 20,000
# iterations of 16.
#
#   bash tools/dist_train.sh \
#       configs/benchmarks/mmsegmentation/voc12aug/fcn_r50-d8_4xb4-20k_voc12aug-512x512.py 4 \
#       --cfg-options model.backbone.init_cfg.checkpoint=work_dirs/NAME/epoch_N.pth
#
# Hardware: 4 GPUs, 4 images on each. Needs mmcoke[det]; data: docs/benchmarks.md. Result: mIoU.
# Time: not measured. Not run at this scale by this project.
_base_ = 'mmseg::fcn/fcn_r50-d8_4xb4-20k_voc12aug-512x512.py'

# method: the base has ResNet-50 v1c, whose stem is another one than that of pre-training
model = dict(
    pretrained=None,
    backbone=dict(type='ResNet', init_cfg=dict(type='mmcoke.StrictPretrained', checkpoint=None)),
)

default_hooks = dict(
    results=dict(
        type='mmcoke.ResultsHook',
        protocol='Scores in % on VOC 2012 val of FCN: the backbone fine-tuned on the augmented '
        'train set.',
    ),
    # machine: does not change results
    checkpoint=dict(max_keep_ckpts=2, backend_args=dict(backend='whole_files')),
)
