from .bfloat16 import BFloat16OptimWrapper
from .lars import LARS

__all__ = ['LARS', 'BFloat16OptimWrapper']
