# SGD; epoch 0 with learning rate 0 (the centers form), warm-up over epochs 1-10, cosine to 0.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.2, momentum=0.9, weight_decay=1e-4, fused=True),
)
param_scheduler = [dict(type='WarmupCosineLR', zero=1, warmup=10, convert_to_iter_based=True)]
# machine: compiling does not change results but for rounding
train_cfg = dict(type='CapturedTrainLoop', max_epochs=401, compile_network=True)
auto_scale_lr = dict(base_batch_size=128, enable=False)
