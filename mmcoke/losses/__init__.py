"""Losses as free functions. Needs torch only."""

from .coke_loss import cluster_logits, coke_loss, multi_view_coke_loss
from .instance_loss import instance_loss
from .secu_loss import secu_loss
from .swav_loss import swapped_prediction_loss

__all__ = [
    'cluster_logits',
    'coke_loss',
    'instance_loss',
    'multi_view_coke_loss',
    'secu_loss',
    'swapped_prediction_loss',
]
