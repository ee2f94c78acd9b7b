from .coke import CoKe

__all__ = ['CoKe']
