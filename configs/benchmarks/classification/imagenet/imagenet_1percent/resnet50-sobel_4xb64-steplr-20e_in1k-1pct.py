# resnet50_4xb64-steplr-20e_in1k-1pct.py for a backbone behind a Sobel filter.
#
#   bash tools/dist_train.sh THIS_FILE 4 --cfg-options model.backbone.init_cfg.checkpoint=PATH
#
# Hardware: 4 GPUs. Time: not measured. Expected, top-1, best of nine runs: DeepCluster 33.44 %
# (published by OpenMMLab, trained with OpenSelfSup). Not run at this scale by this project.
_base_ = 'resnet50_4xb64-steplr-20e_in1k-1pct.py'

# method
model = dict(backbone=dict(type='ResNetSobel'))
