from .coke_hook import CoKeHook
from .progress_hook import ProgressHook

__all__ = ['CoKeHook', 'ProgressHook']
