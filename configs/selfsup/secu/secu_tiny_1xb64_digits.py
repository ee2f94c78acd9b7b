# SeCu on the 1,257 training images of scikit-learn's digits.
#
#   bash tools/quickstart.sh --config configs/selfsup/secu/secu_tiny_1xb64_digits.py
#
# Hardware: 2 CPU cores. Time, expected: not measured.
_base_ = '../coke/coke_tiny_1xb64-2view_digits.py'

# method
model = dict(
    type='SeCu',
    head=dict(_delete_=True, type='SeCuHead', in_channels=64, temperature=0.2, label_weight=0.5),
    clustering=dict(center_lr=1.2, center_temperature=0.2),
)
