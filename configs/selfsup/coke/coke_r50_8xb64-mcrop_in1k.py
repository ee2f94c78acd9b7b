# CoKe, 2 x 224 + 6 x 96 crops: the published recipe (Qian et al., CVPR 2022), 800 epochs and the
# zero-lr one.
#
#   bash tools/dist_train.sh configs/selfsup/coke/coke_r50_8xb64-mcrop_in1k.py 8
#
# Hardware: 8 GPUs. Time: not measured. Expected: 76.4 % ImageNet linear top-1 (published, with
# 8 x 128 images; lr and dual_lr are scaled to 8 x 64). Not run at this scale by this project.
_base_ = [
    '../_base_/models/coke_r50.py',
    '../_base_/datasets/imagenet_coke_mcrop.py',
    '../_base_/schedules/lars_coke_1000e.py',
    '../_base_/default_runtime.py',
]

# method
model = dict(
    data_preprocessor={{_base_.data_preprocessor}},
    head=dict(temperature=0.05, prediction_weight=0.5, label_weight=0.2, small_weight=0.5),
)

# schedule
train_cfg = dict(max_epochs=801)
optim_wrapper = dict(optimizer=dict(lr=0.8))  # 1.6 * 512 / 1024
auto_scale_lr = dict(base_batch_size=512)
