"""What the network will see, by the code that shows it to the network: ``mmcoke browse``."""

import argparse
import os
from collections.abc import Iterator
from copy import deepcopy
from itertools import chain, islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner, set_random_seed
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mmcoke.datasets import UnreadableImageError, read_image
from mmcoke.datasets.samplers import ClusterUniformSampler
from mmcoke.engine.hooks import SampleSeedHook
from mmcoke.engine.launch import default_work_dir
from mmcoke.engine.work_dir import without_workers
from mmcoke.features.backbones import preprocessor_config, scope_of
from mmcoke.messages import shown
from mmcoke.registry import HOOKS, MODELS
from mmcoke.reporting.views import Image, View, shrunk, write_views

from . import train_folder
from .options import merge_options

NOTES = dict(
    unseeded='The config has no SampleSeedHook: training draws other views than these, of the same '
    'kind.',
    impure='Augmentations of kornia draw for a whole batch: training draws other views than these, '
    'of the same kind.',
    clusters='This method draws images by their clusters, which are not there yet: these are in '
    'random order.',
)


def main(args: argparse.Namespace) -> None:
    """Make the views of some images, and write them."""
    cfg = load_config(args)
    out = Path(args.out or default_out(args.source))
    seed = args.seed if args.seed is not None else cfg.get('randomness', {}).get('seed') or 0
    with scope_of(cfg):
        browser = Browser(cfg, seed)
        images = browser.images(args.num)
        pixels = [browser.views(images, epoch) for epoch in range(args.epochs)]
    views = [
        View(text, np.stack(of_epochs, axis=1))
        for text, of_epochs in zip(
            described(cfg, browser.preprocessor, len(pixels[0])),
            zip(*pixels, strict=True),
            strict=True,
        )
    ]
    named = [Image(browser.name(row), browser.original(row)) for row in images]
    title = f'What the network sees: {shown(Path(args.source).resolve().name)}'
    facts = [('seed', str(seed)), ('images', f'{len(browser.dataset):,}')]
    facts += [('batch', str(cfg.train_dataloader.get('batch_size', '?')))]
    paths = write_views(out, named, views, title=title, facts=facts, notes=browser.notes)
    for number, view in enumerate(views, 1):
        height, width = view.pixels.shape[2:4]
        print(f'view {number} of {len(views)}: {width}x{height}, {view.text}')
    for note in browser.notes:
        print(note)
    print(f'Wrote {shown(paths[0])}, and a grid for each view beside it, as PNG and SVG.')


def default_out(source: str) -> Path:
    """In the folder of the run that the same source would have by default."""
    if Path(source).is_dir():
        return train_folder.default_out(Path(source)) / 'views'
    return Path(default_work_dir(source)) / 'views'


def load_config(args: argparse.Namespace) -> Config:
    """What ``mmcoke train`` would train with."""
    if not Path(args.source).is_dir():
        cfg = Config.fromfile(args.source)
        merge_options(cfg, args.cfg_options)
    else:
        cfg = folder_config(args)
    if not cfg.get('train_dataloader'):
        raise ValueError(
            f'{shown(args.source)} has no train_dataloader, so nothing is shown to a network. Name '
            'a config of pre-training.'
        )
    return cfg


def folder_config(args: argparse.Namespace) -> Config:
    """The config that follows from a folder of images."""
    folder, console = Path(args.source), Console(highlight=False)
    chosen = {name: None for name in train_folder.CHOICES} | dict(image_size=args.image_size)
    with DefaultScope.overwrite_default_scope('mmcoke'):
        names = train_folder.listed(folder, console)
        cfg, _ = train_folder.chosen_config(
            folder, names, chosen, console, config=args.config, seed=args.seed or 0
        )
    merge_options(cfg, args.cfg_options)
    return cfg


class Browser:
    """The data of a training, from the data set to the views on the device.

    Args:
        cfg: of the training; must be in its scope.
        seed: of the run.

    Attributes:
        dataset: of the training.
        preprocessor: of the training, on its device.
        notes: in what training will differ.
    """

    def __init__(self, cfg: Config, seed: int) -> None:
        self.notes, self.seed = [], seed
        set_random_seed(seed)
        self.preprocessor = MODELS.build(preprocessor_config(cfg))
        self.preprocessor.to('cuda' if torch.cuda.is_available() else 'cpu')
        self.loader = Runner.build_dataloader(self._alone(cfg), seed=seed)
        self.dataset: Dataset = self.loader.dataset
        self.skips = any('SkipUnreadableHook' in str(hook.get('type')) for hook in hooks_of(cfg))
        seeding = [hook for hook in hooks_of(cfg) if is_seeding(hook)]
        self.hook = HOOKS.build(seeding[0]) if seeding else None
        if self.hook is None:
            self._note('unseeded')
        else:
            self.hook.before_train(self._runner(0))
        if not getattr(self.preprocessor, 'is_pure', True):
            self._note('impure')

    def _note(self, name: str) -> None:
        self.notes.append(NOTES[name])

    def _alone(self, cfg: Config) -> dict:
        """The loader's config, for this process alone, and where labels are not needed yet."""
        cfg = Config(dict(train_dataloader=deepcopy(cfg._cfg_dict.train_dataloader)))
        cfg.train_dataloader.update(num_workers=0, pin_memory=False)
        without_workers(cfg)
        sampler = cfg.train_dataloader.get('sampler') or {}
        if str(sampler.get('type')).rpartition('.')[2] == ClusterUniformSampler.__name__:
            cfg.train_dataloader.sampler = dict(type='mmcoke.TruncatedSampler', shuffle=True)
            self._note('clusters')
        return cfg.train_dataloader

    def _runner(self, epoch: int) -> SimpleNamespace:
        """What the hook wants to know of a runner."""
        return SimpleNamespace(
            seed=self.seed,
            epoch=epoch,
            iter=epoch * len(self.loader),
            train_dataloader=self.loader,
            model=nn.ModuleDict(dict(data_preprocessor=self.preprocessor)),
            optim_wrapper=None,
        )

    def images(self, number: int) -> list[int]:
        """Rows of the first images of the first epoch, without those that training leaves out.

        Raises:
            UnreadableImageError: if one cannot be read, and training would end there, or none can.
            ValueError: if an epoch would have no batch.
        """
        rows = chain.from_iterable(self.loader.batch_sampler)
        found = list(islice(self._readable(rows), number))
        if not found:
            raise ValueError(
                f'{len(self.dataset):,} images are no batch of '
                f'{self.loader.batch_sampler.batch_size}, or none can be read. Give more images, '
                'or a smaller train_dataloader.batch_size.'
            )
        return found

    def _readable(self, rows: Iterator[int]) -> Iterator[int]:
        for row in rows:
            try:
                self.dataset[row]
            except (UnreadableImageError, OSError):
                if not self.skips:
                    raise
                continue
            yield row

    def views(self, rows: list[int], epoch: int) -> list[np.ndarray]:
        """Of each view, the images in an epoch as the network sees them, uint8 (n, H, W, 3)."""
        if self.hook is not None:
            self.hook.before_train_epoch(self._runner(epoch))
        options = dict(batch_size=len(rows), sampler=rows, collate_fn=self.loader.collate_fn)
        (batch,) = DataLoader(self.dataset, **options)
        with torch.no_grad():
            inputs = self.preprocessor(batch, True)['inputs']
        inputs = [inputs] if isinstance(inputs, Tensor) else inputs
        return [pixels_of(view, self.preprocessor) for view in inputs]

    def name(self, row: int) -> str:
        """What a person calls an image: its file, or its number."""
        path = self._record(row).get('img_path')
        return shown(os.path.basename(path)) if path else f'image {row:,}'

    def original(self, row: int) -> np.ndarray | None:
        """The image before all augmentation, RGB, small, where it is an array or a file."""
        record = self._record(row)
        if isinstance(record.get('img'), np.ndarray):
            image = record['img']
            return shrunk(np.stack([image] * 3, 2) if image.ndim == 2 else image[..., :3])
        try:
            return shrunk(cv2.cvtColor(read_image(record['img_path']), cv2.COLOR_BGR2RGB))
        except (KeyError, UnreadableImageError, OSError):
            return None

    def _record(self, row: int) -> dict[str, Any]:
        return self.dataset.get_data_info(row) if hasattr(self.dataset, 'get_data_info') else {}


def hooks_of(cfg: Config) -> list[dict]:
    """All hooks of a config."""
    default = [hook for hook in (cfg.get('default_hooks') or {}).values() if hook]
    return [*default, *(cfg.get('custom_hooks') or [])]


def is_seeding(hook: dict) -> bool:
    return str(hook.get('type')).rpartition('.')[2] == SampleSeedHook.__name__


def pixels_of(view: Tensor, preprocessor: nn.Module) -> np.ndarray:
    """Images of a batch (n, C, H, W) with their normalization undone, uint8 (n, H, W, 3).

    Raises:
        ValueError: if they are neither grey nor coloured.
    """
    view = view.detach().float()
    if getattr(preprocessor, '_enable_normalize', False):
        view = view * preprocessor.std + preprocessor.mean
    if view.ndim != 4 or view.shape[1] not in (1, 3):
        raise ValueError(
            f'The network gets {tuple(view.shape)}, no grey or coloured images (n, C, H, W), so '
            'there is nothing to look at.'
        )
    pixels = view.round().clamp(0, 255).byte().expand(-1, 3, -1, -1)
    return pixels.permute(0, 2, 3, 1).cpu().numpy()


# ---- what makes a view, in words


def described(cfg: Config, preprocessor: nn.Module, num_views: int) -> list[str]:
    """How each view is made, by the names of its transforms."""
    before = names(innermost(cfg.train_dataloader.dataset).get('pipeline') or [])
    found = preprocessor_config(cfg).get('views') or [[]] * num_views
    return [', '.join([*before, *names(view), type(preprocessor).__name__]) for view in found]


def innermost(dataset: dict) -> dict:
    """The config of the data set, or of the first one, in its wrappers."""
    while 'pipeline' not in dataset and (dataset.get('dataset') or dataset.get('datasets')):
        dataset = dataset.get('dataset') or dataset['datasets'][0]
    return dataset


def names(transforms: list[dict]) -> list[str]:
    return [str(transform.get('type')).rpartition('/')[2] for transform in transforms]
