# CoKe, two views of 16 x 16 and four crops of 10 x 10, on the 1,257 training images of the digits.
#
#   bash tools/quickstart.sh --config configs/selfsup/coke/coke_tiny_1xb64-mcrop_digits.py
#
# Hardware: 2 CPU cores. Time: about 5 minutes. Expected, clusters against digits: accuracy 0.944,
# NMI 0.921 (seed 0).
_base_ = 'coke_tiny_1xb64-2view_digits.py'

# method
crop = [
    dict(type='RandomResizedCrop', size=(10, 10), scale=(0.3, 0.8), ratio=(0.8, 1.25), p=1.0),
    dict(type='RandomContrast', contrast=(0.6, 1.4), p=1.0),
    dict(type='RandomGaussianNoise', std=0.1, p=1.0),
]
model = dict(
    data_preprocessor=dict(views=[{{_base_.view}}, {{_base_.view}}, crop, crop, crop, crop]),
    head=dict(small_weight=0.5),
)
