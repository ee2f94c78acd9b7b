# CoKe, one view, on the digits, without a constraint on cluster sizes (the lower bound goes to 0):
# the other ablation.
#
#   bash tools/quickstart.sh --config configs/selfsup/coke/coke_tiny_1xb64-unconstrained_digits.py
#
# Hardware: 2 CPU cores. Time: about 2 minutes. Expected, clusters against digits: accuracy 0.716,
# NMI 0.855 (median of seeds 0, 1, 2).
_base_ = 'coke_tiny_1xb64_digits.py'

# method
model = dict(clustering=dict(min_ratio=1e-6))
