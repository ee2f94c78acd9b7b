# What the classification benchmarks share.
_base_ = '../../_base_/runtime.py'

default_hooks = dict(
    checkpoint=dict(interval=1, max_keep_ckpts=1),
    label_check=dict(type='LabelCheckHook'),
    results=dict(type='ResultsHook'),  # each benchmark adds its protocol
)
custom_hooks = []

val_cfg = dict()
