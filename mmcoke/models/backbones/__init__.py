from .plain_convnet import PlainConvNet

__all__ = ['PlainConvNet']
