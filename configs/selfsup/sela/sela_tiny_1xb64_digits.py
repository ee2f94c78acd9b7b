# SeLa on the 1,257 training images of scikit-learn's digits.
#
#   bash tools/quickstart.sh --config configs/selfsup/sela/sela_tiny_1xb64_digits.py
#
# Hardware: 2 CPU cores. Time: about 2 minutes of one core. Expected: kNN 0.987, linear 0.991,
# clusters against digits: accuracy 0.943, NMI 0.905 (seed 0).
_base_ = '../coke/coke_tiny_1xb64_digits.py'

# method
model = dict(
    type='SeLa',
    neck=dict(_delete_=True, type='GlobalAveragePooling'),
    head=dict(_delete_=True, type='SeLaHead'),
    clustering=dict(_delete_=True, num_clusters=[20, 24, 32], temperature=1 / 25),
)
custom_hooks = [dict(type='SeLaHook', pipeline={{_base_.pipeline}}, batch_size=256, num_updates=40)]

# schedule
optim_wrapper = dict(optimizer=dict(lr=0.1))
param_scheduler = [dict(type='WarmupCosineLR', zero=0, warmup=5, convert_to_iter_based=True)]
train_cfg = dict(max_epochs=60)
