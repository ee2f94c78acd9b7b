# resnet50_mhead_8xb32-steplr-28e_places205.py for a backbone behind a Sobel filter.
#
#   bash tools/dist_train.sh THIS_FILE 8 --cfg-options model.backbone.init_cfg.checkpoint=PATH
#
# Hardware: 8 GPUs. Time: not measured. Expected, top-1 of stages 0-4: DeepCluster 18.80, 33.93,
# 41.44, 47.22, 42.61 % (published by OpenMMLab, trained with OpenSelfSup).
# Not run at this scale by this project.
_base_ = 'resnet50_mhead_8xb32-steplr-28e_places205.py'

# method
model = dict(backbone=dict(type='ResNetSobel'))
