# CoKe, one view, on the digits, with balanced clusters: the ablation of the lower bound.
#
#   bash tools/quickstart.sh --config configs/selfsup/coke/coke_tiny_1xb64-balanced_digits.py
#
# Hardware: 2 CPU cores. Time: about 2 minutes. Expected, clusters against digits: accuracy 0.962,
# NMI 0.937 (median of seeds 0, 1, 2).
_base_ = 'coke_tiny_1xb64_digits.py'

# method
model = dict(clustering=dict(min_ratio=1.0))
