"""Weights of a checkpoint for ``init_cfg``, counted: what does not fit stops the run."""

from collections.abc import Iterable, Sequence

from mmengine.model import PretrainedInit, update_init_info
from torch import Tensor, nn

from mmcoke.messages import some
from mmcoke.registry import WEIGHT_INITIALIZERS

from .convert import require
from .pretrained import find_prefix, load_backbone, load_model, read_weights, without

__all__ = ['StrictPretrained']

COUNTER = 'num_batches_tracked'
"""Of batch norm: old checkpoints lack it, and networks that are used here do not read it."""


def load_pretrained(init: PretrainedInit, module: nn.Module) -> None:
    """What mmengine's ``Pretrained`` does, in all scopes, once mmcoke is imported: it counts.

    mmengine's own only logs what is missing or of another shape, and trains on with random weights
    in its place. Here the log says how many keys matched. A module finds its weights in any
    checkpoint, whatever stands before their names; a whole model, which has a ``backbone``, takes
    its own names, and may have other heads than the checkpoint.

    Raises:
        OSError: if the checkpoint cannot be opened.
        ValueError: if it is damaged or unsafe; if it has no name with the prefix, or less than 90 %
            of the weights of the module, or of the model's backbone; or one of another shape. A
            module that adds layers to the network can use :class:`StrictPretrained` with ``new``.
    """
    keep_from_other_initializations(module, init)
    weights = read_weights(init.checkpoint)
    if init.prefix:
        prefix = f'{init.prefix.rstrip(".")}.'
        weights, found = without(prefix, weights), some(weights)
        if not weights:
            raise ValueError(
                f'No name in {init.checkpoint} begins with {prefix!r}; it has {found}. Leave '
                'prefix out of the init_cfg: it is found.'
            )
    load = load_model if hasattr(module, 'backbone') else load_backbone
    load(module, weights, init.checkpoint)
    if hasattr(module, '_params_init_info'):
        update_init_info(module, init_info=init._get_init_info())


def keep_from_other_initializations(module: nn.Module, init: PretrainedInit) -> None:
    """See that nothing initializes the module once it has its weights.

    Raises:
        ValueError: if mmengine is going to.
    """
    given = getattr(module, 'init_cfg', None) or []
    names = [cfg['type'] for cfg in ([given] if isinstance(given, dict) else given)]
    scoped = [name for name in names if isinstance(name, str) and name.endswith('.Pretrained')]
    if scoped:
        raise ValueError(
            f"Write type='Pretrained' instead of {scoped[0]!r} in the init_cfg of "
            f'{type(module).__name__}: by another name mmengine initializes its layers afterwards.'
        )
    if given and not (isinstance(given, dict) and names == ['Pretrained']):
        # mmpretrain's backbones zero or draw some weights afterwards, unless they find just this.
        module.init_cfg = dict(type='Pretrained', checkpoint=init.checkpoint)


# Not registered anew: configs may also give the class.
PretrainedInit.__call__ = load_pretrained


@WEIGHT_INITIALIZERS.register_module()
class StrictPretrained(PretrainedInit):
    """A backbone, or a part of one, from a checkpoint that has all of it.

    mmengine's ``Pretrained`` only logs what is missing or of another shape, and trains on with
    random weights in its place. For ``init_cfg`` in configs of mmdetection and mmsegmentation, as
    ``mmcoke.StrictPretrained``. The module may have fewer stages than the network in the
    checkpoint: a C4 detector has ``layer4`` in its RoI head, and the others in its backbone. A
    stage that it has must be the same.

    Args:
        checkpoint: file of mmcoke, mmpretrain, mmselfsup, torchvision or other code with its
            names, or an address such as ``torchvision://resnet50``. None: to be given later, by
            ``--cfg-options model.backbone.init_cfg.checkpoint=...``.
        new: beginnings of names that the module adds to the network; they stay as they are.

    Raises:
        OSError: if the file cannot be opened.
        ValueError: if there is no checkpoint, or one that does not fit, with what is wrong; or for
            a backbone of mmpretrain, which changes weights after any initializer of another name
            than ``Pretrained``.
    """

    def __init__(self, checkpoint: str | None, *, new: Sequence[str] = ()) -> None:
        super().__init__(checkpoint)
        self.new = tuple(new)

    def __call__(self, module: nn.Module) -> None:
        """Load the weights into a module."""
        # Here, because the registries import this module.
        from mmpretrain.models.backbones.base_backbone import BaseBackbone

        kind = type(module).__name__
        if isinstance(module, BaseBackbone):
            raise ValueError(
                f'{kind} of mmpretrain would change weights afterwards. Use the model '
                'mmcoke.PretrainedClassifier with init_cfg=dict(type="Pretrained", ...), which '
                'is strict too.'
            )
        if not self.checkpoint:
            raise ValueError(
                f'There is no checkpoint for {kind}: set checkpoint in its init_cfg, such as '
                '--cfg-options model.backbone.init_cfg.checkpoint=PATH. A C4 detector needs the '
                'same path in model.roi_head.shared_head.init_cfg.checkpoint too.'
            )
        wanted = {n: x for n, x in module.state_dict().items() if not n.startswith(self.new)}
        state = part_of(read_weights(self.checkpoint), wanted)
        require(
            {name: x for name, x in state.items() if not name.endswith(COUNTER)},
            {name: x.shape for name, x in wanted.items() if not name.endswith(COUNTER)},
            f'{self.checkpoint} does not fit {kind} (depth, number of input channels?): it',
        )
        module.load_state_dict(state, strict=False)  # all but counters and new ones, see above
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=self._get_init_info())


def part_of(weights: dict[str, Tensor], wanted: Iterable[str]) -> dict[str, Tensor]:
    """What a checkpoint has of the children of a module, with the module's names.

    Args:
        weights: of a checkpoint, whatever stands before the names.
        wanted: names of the module's weights.
    """
    wanted = list(wanted)
    children = {name.split('.')[0] for name in wanted}
    prefix = find_prefix(weights, wanted)
    below = {n.removeprefix(prefix): x for n, x in weights.items() if n.startswith(prefix)}
    return {name: x for name, x in below.items() if name.split('.')[0] in children}
