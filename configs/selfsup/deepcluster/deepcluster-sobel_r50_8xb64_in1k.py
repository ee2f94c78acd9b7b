# DeepCluster with ResNet-50 behind a Sobel filter: the recipe of OpenMMLab's model zoo.
#
#   bash tools/dist_train.sh configs/selfsup/deepcluster/deepcluster-sobel_r50_8xb64_in1k.py 8
#
# Hardware: 8 GPUs. Time: not measured. Expected: 74.26 % VOC07 SVM, 46.92 % ImageNet linear top-1
# (published by OpenMMLab, trained with OpenSelfSup). Not run at this scale by this project.
_base_ = 'deepcluster_r50_8xb64_in1k.py'

# method
model = dict(backbone=dict(type='ResNetSobel'))
