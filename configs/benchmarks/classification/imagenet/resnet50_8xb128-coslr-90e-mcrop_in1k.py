# Linear evaluation on ImageNet-1k as CoKe publishes it, for pre-training with multi-crop.
#
#   bash tools/dist_train.sh THIS_FILE 8 --cfg-options model.backbone.init_cfg.checkpoint=PATH
#
# Hardware: 8 GPUs. Time: not measured. Expected, top-1: CoKe with multi-crop 76.4 % (published by
# its authors).
# Not run at this scale by this project.
_base_ = 'resnet50_8xb128-coslr-90e_in1k.py'

# schedule
optim_wrapper = dict(optimizer=dict(lr=0.4))
