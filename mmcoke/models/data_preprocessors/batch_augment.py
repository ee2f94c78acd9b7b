"""Augmentation of whole batches, on the device."""

import difflib

from kornia import augmentation
from mmpretrain.models import SelfSupDataPreprocessor
from torch import Tensor, nn

from mmcoke.registry import MODELS


@MODELS.register_module()
class BatchAugmentPreprocessor(SelfSupDataPreprocessor):
    """Moves images to the device, augments them in batch with kornia while training, normalizes.

    Much faster than transforms image by image, for small images above all.

    Args:
        augment: kornia augmentations in order, as configs: the name in ``kornia.augmentation`` as
            ``type``, and its arguments. Images are in [0, 1] there.
        mean, std, and others: see ``SelfSupDataPreprocessor``; in units of 0 ... 255.

    Raises:
        ValueError: if kornia has no augmentation of a name.
    """

    def __init__(self, augment: list[dict], **kwargs) -> None:
        super().__init__(**kwargs)
        self.augment = nn.Sequential(*map(build_augmentation, augment))

    def forward(self, data: dict, training: bool = False) -> dict:
        """See ``SelfSupDataPreprocessor``; images come as (n, C, H, W) with values 0 ... 255."""
        if training:
            data = self.cast_data(data)
            inputs = data['inputs']
            if isinstance(inputs, Tensor):
                data['inputs'] = self._augmented(inputs)
            else:
                data['inputs'] = [self._augmented(view) for view in inputs]
        return super().forward(data, training)

    def _augmented(self, images: Tensor) -> Tensor:
        return self.augment(images.float() / 255) * 255


def build_augmentation(cfg: dict) -> nn.Module:
    """The kornia augmentation that a config names."""
    cfg = dict(cfg)
    name = cfg.pop('type')
    if not hasattr(augmentation, name):
        close = difflib.get_close_matches(name, dir(augmentation)) or ['see its documentation']
        raise ValueError(f'kornia.augmentation has no {name!r} ({", ".join(close)}).')
    return getattr(augmentation, name)(**cfg)
