# CoKe, one view, ViT-S/16. Not a published recipe: AdamW with the settings that DINO uses for this
# backbone (Caron et al., ICCV 2021), the rest as for ResNet-50.
#
#   bash tools/dist_train.sh configs/selfsup/coke/coke_vit-small-p16_8xb64_in1k.py 8
#
# Hardware: 8 GPUs. Not run at this scale by this project.
_base_ = [
    '../_base_/models/coke_r50.py',
    '../_base_/datasets/imagenet_coke.py',
    '../_base_/schedules/lars_coke_1000e.py',
    '../_base_/default_runtime.py',
]

# method
model = dict(
    data_preprocessor={{_base_.data_preprocessor}},
    backbone=dict(
        _delete_=True,
        type='VisionTransformer',
        arch='deit-small',
        img_size=224,
        patch_size=16,
        drop_path_rate=0.1,
        out_type='cls_token',
    ),
    neck=dict(with_avg_pool=False),
)

# schedule
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-3, weight_decay=0.04),  # 5e-4 * 512 / 256
    clip_grad=dict(max_norm=3.0),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
train_cfg = dict(max_epochs=301)
auto_scale_lr = dict(base_batch_size=512)
