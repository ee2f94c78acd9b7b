# resnet50_8xb32-steplr-100e_in1k.py for a backbone behind a Sobel filter.
#
#   bash tools/dist_train.sh THIS_FILE 8 --cfg-options model.backbone.init_cfg.checkpoint=PATH
#
# Hardware: 8 GPUs. Time: not measured. Expected, top-1: DeepCluster 46.92 % (published by
# OpenMMLab, trained with OpenSelfSup). Not run at this scale by this project.
_base_ = 'resnet50_8xb32-steplr-100e_in1k.py'

# method
model = dict(backbone=dict(type='ResNetSobel'))
