# resnet50_mhead_8xb32-steplr-90e_in1k.py for a backbone behind a Sobel filter.
#
#   bash tools/dist_train.sh THIS_FILE 8 --cfg-options model.backbone.init_cfg.checkpoint=PATH
#
# Hardware: 8 GPUs. Time: not measured. Expected, top-1 of stages 0-4: DeepCluster 12.78, 30.81,
# 43.88, 57.71, 51.68 % (published by OpenMMLab, trained with OpenSelfSup).
# Not run at this scale by this project.
_base_ = 'resnet50_mhead_8xb32-steplr-90e_in1k.py'

# method
model = dict(backbone=dict(type='ResNetSobel'))
