# resnet50_8xb128-coslr-90e-mcrop_in1k.py for a backbone behind a Sobel filter.
#
#   bash tools/dist_train.sh THIS_FILE 8 --cfg-options model.backbone.init_cfg.checkpoint=PATH
#
# Hardware: 8 GPUs. Time: not measured. Expected: not published.
# Not run at this scale by this project.
_base_ = 'resnet50_8xb128-coslr-90e-mcrop_in1k.py'

# method
model = dict(backbone=dict(type='ResNetSobel'))
