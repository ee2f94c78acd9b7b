# LARS; epoch 0 with learning rate 0 (the centers form), warm-up over epochs 1-10, cosine to 0.
# The published learning rate is 1.6 for a batch of 1024 images.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='LARS', lr=1.6, momentum=0.9, weight_decay=1e-6, trust_coefficient=0.001),
)
param_scheduler = [dict(type='WarmupCosineLR', zero=1, warmup=10, convert_to_iter_based=True)]
train_cfg = dict(by_epoch=True, max_epochs=1001)
# `tools/train.py --auto-scale-lr` scales the learning rate from this batch to the actual one.
auto_scale_lr = dict(base_batch_size=1024, enable=False)
