# The optimizer of all five-stage recipes; each adds when its learning rate falls.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4, nesterov=True),
)
auto_scale_lr = dict(base_batch_size=256, enable=False)
