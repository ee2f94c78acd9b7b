"""mmcoke: clustering-based self-supervised learning of image features."""

__version__ = '0.1.0'
