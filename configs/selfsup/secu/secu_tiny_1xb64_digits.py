# SeCu on the 1,257 training images of scikit-learn's digits.
#
#   bash tools/quickstart.sh --config configs/selfsup/secu/secu_tiny_1xb64_digits.py
#
# Hardware: 2 CPU cores. Time: not measured (13 minutes where others used them, too).
# Expected, clusters against digits: accuracy 0.946, NMI 0.919; kNN 0.980, linear 0.993 (seed 0).
_base_ = '../coke/coke_tiny_1xb64-2view_digits.py'

# method
# The bound is as on CIFAR-10: learned centers go as far as it lets them, and at CoKe's 0.4 one
# cluster of each head took half of the images (151 epochs: clusters 0.423, kNN 0.985; seed 0).
model = dict(
    type='SeCu',
    head=dict(_delete_=True, type='SeCuHead', in_channels=64, temperature=0.2, label_weight=0.5),
    clustering=dict(min_ratio=0.9, center_lr=1.2, center_temperature=0.2),
)

# schedule
train_cfg = dict(max_epochs=51)
