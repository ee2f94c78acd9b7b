from .plain_convnet import PlainConvNet
from .resnet_sobel import ResNetSobel

__all__ = ['PlainConvNet', 'ResNetSobel']
