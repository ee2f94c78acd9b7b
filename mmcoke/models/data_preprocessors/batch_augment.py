"""Augmentation of whole batches, on the device."""

import difflib
import inspect
import logging
from collections.abc import Callable
from typing import Any

import torch
from mmengine.logging import print_log
from mmpretrain.models import SelfSupDataPreprocessor
from torch import Tensor, nn

from mmcoke.augmentation import OPERATIONS, View, build_operation, view_keys
from mmcoke.registry import MODELS

from ..algorithms.base import sample_indices


@MODELS.register_module()
class BatchAugmentPreprocessor(SelfSupDataPreprocessor):
    """Moves images to the device, makes views of them while training, normalizes.

    In batch, which is much faster than image by image, for small images above all. A view of an
    image is a pure function of (seed, epoch, sample, view): the same in any batch, on any number of
    processes and after a resume. Call :meth:`set_epoch` when an epoch begins; ``SampleSeedHook``
    does.

    A name that ``mmcoke.augmentation`` does not have is looked up in kornia. Its augmentations draw
    from torch's generator, so such a view hangs on the batch as well, and no CUDA graph holds it.

    Args:
        views: for each view of an image, augmentations in order, as configs: the name in
            ``mmcoke.augmentation.OPERATIONS`` or in ``kornia.augmentation`` as ``type``, and its
            arguments. Images are in [0, 1] there.
        channels_last: give out images that lie in memory pixel by pixel.
        non_blocking: do not let the host wait for copies from pinned memory.
        mean, std, and others: see ``SelfSupDataPreprocessor``; in units of 0 ... 255.

    Raises:
        ValueError: if there is no augmentation of a name, it does not take the arguments, or there
            is no view.
    """

    def __init__(
        self,
        views: list[list[dict]],
        *,
        channels_last: bool = False,
        non_blocking: bool = True,
        **kwargs,
    ) -> None:
        super().__init__(non_blocking=non_blocking, **kwargs)
        if not views:
            raise ValueError('views must have the augmentations of at least one view.')
        self.views = nn.ModuleList(View(map(build, view)) for view in views)
        self.channels_last = channels_last
        say_what_is_not_ours(views)
        self.told = False  # the epoch
        scale, shift = torch.tensor(255.0), None
        if self._enable_normalize:
            scale, shift = 255 / self.std, -self.mean / self.std
        numbers = dict(scale=scale, shift=shift, seed=torch.tensor(0), epoch=torch.tensor(0))
        for name, value in numbers.items():
            self.register_buffer(name, value, persistent=False)

    @property
    def is_pure(self) -> bool:
        """Whether all random numbers follow from (seed, epoch, sample, view)."""
        return not any(isinstance(module, KorniaAugmentation) for module in self.modules())

    def set_epoch(self, seed: int, epoch: int) -> None:
        """What the views that follow belong to: the seed of the run, and the epoch, from 0 on."""
        self.seed.fill_(seed)
        self.epoch.fill_(epoch)
        self.told = True

    def forward(self, data: dict, training: bool = False) -> dict:
        """Images become normalized views.

        Args:
            data: ``inputs``, images (n, C, H, W) with values 0 ... 255, or a list of them, one per
                view, and the index of each image in the data set: ``sample_idx``, int64 (n,), or
                else ``sample_idx`` of each of the ``data_samples``.
            training: otherwise images stay as they are, one view, and are only normalized.

        Returns:
            ``inputs``, a list of views, with ``data_samples`` and ``sample_idx`` as they came.

        Raises:
            ValueError: if a list of images has another length than ``views``, or there is no index.
        """
        if not training:
            data = {name: data.get(name) for name in ('inputs', 'data_samples')}
            return super().forward(data, training)
        data = self.cast_data(data)
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            kept = {name: data[name] for name in ('data_samples', 'sample_idx') if name in data}
            return dict(inputs=self.make_views(data), **kept)

    def make_views(self, data: dict) -> list[Tensor]:
        """The views of a batch on the device; see :meth:`forward`."""
        images = self.per_view(data['inputs'])
        keys = [None] * len(images)
        if any(view.num_draws for view in self.views):
            keys = view_keys(self.seed, self.epoch, self.indices(data), len(images))
            self.warn_if_not_told()
        views = (view(x, key) for view, x, key in zip(self.views, images, keys, strict=True))
        return [self.normalized(view) for view in views]

    def per_view(self, inputs: Tensor | list[Tensor]) -> list[Tensor]:
        """RGB images in [0, 1] for each view, those of all views from one tensor or from a list."""
        if isinstance(inputs, Tensor):
            return [self.prepared(inputs)] * len(self.views)
        if len(inputs) != len(self.views):
            raise ValueError(
                f'The pipeline makes {len(inputs)} views of an image, but views of '
                f'BatchAugmentPreprocessor has augmentations for {len(self.views)}.'
            )
        return [self.prepared(x) for x in inputs]

    def prepared(self, images: Tensor) -> Tensor:
        images = images.flip(1) if self._channel_conversion else images
        return (images / 255).float().contiguous()

    def normalized(self, view: Tensor) -> Tensor:
        shift = self.shift
        view = view * self.scale if shift is None else torch.addcmul(shift, view, self.scale)
        return view.contiguous(memory_format=torch.channels_last) if self.channels_last else view

    def indices(self, data: dict) -> Tensor:
        """Index of each image in the data set, int64 (n,)."""
        if data.get('sample_idx') is not None:
            return torch.as_tensor(data['sample_idx'], device=self.device)
        return sample_indices(data.get('data_samples'), self.device)

    def warn_if_not_told(self) -> None:
        if not self.told:
            self.told = True
            print_log(
                'Augmentation is that of epoch 0 in every epoch: nobody has called set_epoch of '
                "BatchAugmentPreprocessor. Add dict(type='SampleSeedHook') to custom_hooks.",
                'current',
                logging.WARNING,
            )


class KorniaAugmentation(nn.Module):
    """An augmentation of kornia among ours: it draws its own random numbers."""

    num_draws = 0

    def __init__(self, augmentation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.augmentation = augmentation

    def forward(self, images: Tensor, u: Tensor) -> Tensor:
        return self.augmentation(images)


def build(cfg: dict) -> nn.Module:
    """The augmentation that a config names, ours or kornia's."""
    arguments = dict(cfg)
    name = str(arguments.pop('type', None))
    if name in OPERATIONS:
        return build_operation(cfg)
    from kornia import augmentation  # takes a second: only for those who need it

    theirs = {key: cls for key, cls in vars(augmentation).items() if is_module(cls)}
    if name not in theirs:
        close = difflib.get_close_matches(name, [*OPERATIONS, *theirs]) or OPERATIONS
        raise ValueError(f'There is no augmentation {name!r} ({", ".join(close)}).')
    try:
        return KorniaAugmentation(theirs[name](**arguments))
    except (TypeError, ValueError) as error:
        reason = ' '.join(str(error).split())
        raise ValueError(f'kornia does not make {name} from {arguments}: {reason}') from error


def is_module(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, nn.Module)


def say_what_is_not_ours(views: list[list[dict]]) -> None:
    """Once for all views: which of their augmentations are kornia's."""
    names = sorted({cfg['type'] for view in views for cfg in view} - set(OPERATIONS))
    if names:
        print_log(
            f"{', '.join(names)}: kornia's, so views hang on the batch, not on (seed, epoch, "
            f'sample) alone. Ours, which do not: {", ".join(OPERATIONS)}.',
            'current',
        )
