from .coke_head import CoKeHead

__all__ = ['CoKeHead']
