"""Losses as free functions. Needs torch only."""

from .coke_loss import cluster_logits, coke_loss

__all__ = ['cluster_logits', 'coke_loss']
