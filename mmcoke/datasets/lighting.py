"""Colour noise along the principal components of ImageNet's colours."""

import numpy as np
from mmpretrain.datasets import Lighting as _Lighting

from mmcoke.registry import TRANSFORMS


@TRANSFORMS.register_module()
class Lighting(_Lighting):
    """mmpretrain's Lighting in floating point.

    There, an 8-bit image stays one, and a dark pixel that gets darker comes out white. All
    arguments are mmpretrain's; the rows of ``eigvec`` are in the order of the image's channels.
    """

    def transform(self, results: dict) -> dict:
        """The image becomes float32 and may leave 0 ... 255."""
        results['img'] = results['img'].astype(np.float32)
        return super().transform(results)
