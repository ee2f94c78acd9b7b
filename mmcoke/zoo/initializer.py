"""``mmcoke://NAME`` wherever OpenMMLab takes a checkpoint."""

from mmengine.model import PretrainedInit, update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS as ROOT_INITIALIZERS
from mmengine.runner import CheckpointLoader
from torch import nn

from mmcoke.files import read_checkpoint
from mmcoke.weights.pretrained import load_backbone, read_weights

from .store import ADDRESS, local_file

__all__ = ['ZooPretrained']


@CheckpointLoader.register_scheme(prefixes=ADDRESS)
def read_from_zoo(address: str, map_location: str | None = None) -> dict:
    """The checkpoint of ``mmcoke://NAME``, downloaded if it is not there yet.

    Raises as :func:`mmcoke.download` and :func:`~mmcoke.files.read_checkpoint`.
    """
    return read_checkpoint(local_file(address), map_location=map_location or 'cpu')


@ROOT_INITIALIZERS.register_module(name='Pretrained', force=True)
class ZooPretrained(PretrainedInit):
    """mmengine's ``Pretrained``, which counts what it loads from the model zoo.

    It has that name in all scopes, so that ``init_cfg=dict(type='Pretrained',
    checkpoint='mmcoke://NAME', prefix='backbone.')`` works in configs of mmpretrain, mmdetection
    and mmsegmentation. The log says how many keys matched. Other checkpoints are loaded as before.

    Raises:
        ValueError: if the zoo has no such model, or its checkpoint has less than 90 % of the
            module's weights.
    """

    def __call__(self, module: nn.Module) -> None:
        """Load the weights into a module."""
        if not str(self.checkpoint).startswith(ADDRESS):
            super().__call__(module)
            return
        start = f'{self.prefix.rstrip(".")}.' if self.prefix else ''
        weights = read_weights(self.checkpoint)
        weights = {n.removeprefix(start): x for n, x in weights.items() if n.startswith(start)}
        load_backbone(module, weights, self.checkpoint)
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=self._get_init_info())
