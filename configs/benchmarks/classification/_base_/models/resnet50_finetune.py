# Linear classifier on a ResNet-50 that is trained along.
_base_ = 'resnet50_linear.py'

model = dict(type='PretrainedClassifier', backbone=dict(norm_cfg=dict(type='SyncBN')))
