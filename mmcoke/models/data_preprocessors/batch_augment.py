"""Augmentation of whole batches, on the device."""

import difflib

from kornia import augmentation
from mmpretrain.models import SelfSupDataPreprocessor
from torch import nn

from mmcoke.registry import MODELS


@MODELS.register_module()
class BatchAugmentPreprocessor(SelfSupDataPreprocessor):
    """Moves images to the device, makes views of them with kornia while training, normalizes.

    In batch, which is much faster than image by image, for small images above all.

    Args:
        views: for each view of an image, kornia augmentations in order, as configs: the name in
            ``kornia.augmentation`` as ``type``, and its arguments. Images are in [0, 1] there.
        mean, std, and others: see ``SelfSupDataPreprocessor``; in units of 0 ... 255.

    Raises:
        ValueError: if kornia has no augmentation of a name, or there is no view.
    """

    def __init__(self, views: list[list[dict]], **kwargs) -> None:
        super().__init__(**kwargs)
        if not views:
            raise ValueError('views must have the augmentations of at least one view.')
        self.views = nn.ModuleList(nn.Sequential(*map(build_augmentation, view)) for view in views)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Images (n, C, H, W) with values 0 ... 255 become a list of normalized views.

        Outside of training they stay as they are, one view, and are only normalized.
        """
        if not training:
            return super().forward(data, training)
        data = self.cast_data(data)
        images = data['inputs'].float() / 255
        views = [view(images) * 255 for view in self.views]
        if self._enable_normalize:
            views = [(view - self.mean) / self.std for view in views]
        return dict(inputs=views, data_samples=data['data_samples'])


def build_augmentation(cfg: dict) -> nn.Module:
    """The kornia augmentation that a config names."""
    cfg = dict(cfg)
    name = cfg.pop('type')
    if not hasattr(augmentation, name):
        close = difflib.get_close_matches(name, dir(augmentation)) or ['see its documentation']
        raise ValueError(f'kornia.augmentation has no {name!r} ({", ".join(close)}).')
    return getattr(augmentation, name)(**cfg)
