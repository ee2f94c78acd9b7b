# CoKe, one view, on the digits, with balanced clusters: the ablation of the lower bound.
#
#   bash tools/quickstart.sh --config configs/selfsup/coke/coke_tiny_1xb64-balanced_digits.py
_base_ = 'coke_tiny_1xb64_digits.py'

# method
model = dict(clustering=dict(min_ratio=1.0))
