# SeLa, ResNet-18, on the training images of CIFAR-10: the settings of the authors' script, which
# are for an AlexNet and images of 224 pixels (10 clusterings of 128, lambda 10, batch 128, lr 0.03,
# 400 epochs); network and augmentation of CoKe's recipe with one view. They update the labels of
# one clustering in each epoch, here those of all are.
#
#   python tools/train.py configs/selfsup/sela/sela_r18_1xb128_cifar10.py
#
# Hardware: 1 GPU; the images lie on it, and each step is one CUDA graph. Time, expected: not
# measured.
_base_ = '../coke/coke_r18_1xb128_cifar10.py'

# method
model = dict(
    type='SeLa',
    neck=dict(_delete_=True, type='GlobalAveragePooling'),
    head=dict(_delete_=True, type='SeLaHead'),
    clustering=dict(_delete_=True, num_clusters=[128] * 10, temperature=1 / 10),
)
custom_hooks = [
    dict(
        type='SeLaHook',
        pipeline=[dict(type='PackInputs')],
        num_updates=400,
        power=1,
        # machine: does not change results
        batch_size=512,
    )
]

# schedule
optim_wrapper = dict(optimizer=dict(lr=0.03, weight_decay=5e-4))
param_scheduler = [dict(type='MultiStepLR', by_epoch=True, milestones=[160, 240, 320], gamma=0.1)]
train_cfg = dict(max_epochs=400)
