# CoKe, one view, on the digits, the last fifth of the epochs with averaged centers and labels.
#
#   bash tools/quickstart.sh --config configs/selfsup/coke/coke_tiny_1xb64-stage2_digits.py
#
# Hardware: 2 CPU cores. Time: about 2 minutes. Expected, clusters against digits: accuracy 0.959,
# NMI 0.934 (seed 0).
_base_ = 'coke_tiny_1xb64_digits.py'

# method
model = dict(clustering=dict(average_from_epoch=185, num_slots=5, label_temperature=0.5))
