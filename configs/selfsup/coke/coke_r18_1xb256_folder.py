# CoKe, one view, ResNet-18, on a folder of your own unlabelled images (subfolders are fine).
#
#   python tools/train.py configs/selfsup/coke/coke_r18_1xb256_folder.py \
#       --cfg-options train_dataloader.dataset.data_root=/path/to/images
#
# Hardware: 1 GPU (without one it runs on CPU, slowly). Not run to the end by this
# project. Rule of thumb for n images: num_clusters around n / 100, n / 50 and n / 25, within 10 ...
# 5000; dual_lr: see docs/methods/coke.md.
_base_ = [
    '../_base_/models/coke_r50.py',
    '../_base_/datasets/imagenet_coke.py',
    '../_base_/schedules/lars_coke_1000e.py',
    '../_base_/default_runtime.py',
]

# method
model = dict(
    data_preprocessor={{_base_.data_preprocessor}},
    backbone=dict(depth=18),
    neck=dict(hid_channels=1024),
    head=dict(hid_channels=1024),
    clustering=dict(num_clusters=[100, 200, 400], dual_lr=4.0, dual_lr_base_batch_size=256),
)

# data
train_dataloader = dict(
    batch_size=256,
    dataset=dict(
        _delete_=True,
        type='CustomDataset',
        data_root='data/images/',
        with_label=False,
        pipeline={{_base_.train_pipeline}},
    ),
)

# schedule
optim_wrapper = dict(optimizer=dict(lr=0.4))  # 1.6 * 256 / 1024
train_cfg = dict(max_epochs=201)
auto_scale_lr = dict(base_batch_size=256)
