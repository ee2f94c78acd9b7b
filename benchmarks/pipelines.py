"""How far our views are from the published pipeline on PIL, on photos.

- crops: the same boxes, drawn as our transform draws them, cut and resized by torchvision on PIL
  and by ours; differences of pixels, and of the features of a ResNet-18 with random weights.
- views: crops, colour and blur of both pipelines with random numbers of their own; mean and
  standard deviation of each channel of the normalized views, and by how many errors of sampling
  they differ.

    python benchmarks/pipelines.py FOLDER
"""

import argparse
import json
import random
from pathlib import Path

import numpy as np
import torch
import torchvision
from jpeg_views import BASES, RECIPES, photos
from mmengine.config import Config
from mmengine.dataset import Compose, default_collate
from mmengine.registry import init_default_scope
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import pil_to_tensor, resized_crop

from mmcoke.datasets import RandomResizedCrops
from mmcoke.files import write_text
from mmcoke.registry import MODELS

MEAN, STD = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('folder', type=Path, help='of JPEG files')
    parser.add_argument('--epochs', type=int, default=2, help='of views (%(default)s)')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the figures here, too')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    init_default_scope('mmcoke')
    files = photos(args.folder)
    found = dict(photos=len(files))
    for size, scale in ((224, (0.08, 1.0)), (96, (0.05, 0.6))):
        found[f'crops of {size}'] = crops(files, size, scale)
    if args.epochs:
        for views in ('one', 'two'):
            found[f'views: {views}'] = statistics_of_views(files, RECIPES[views], args.epochs)
    show(found)
    if args.json:
        write_text(args.json, json.dumps(found, indent=2) + '\n')


# ---- crops with the same boxes


def crops(files: list[str], size: int, scale: tuple[float, float]) -> dict[str, float]:
    """Differences of pixels (0 ... 255) and cosines of features."""
    ours = RandomResizedCrops([dict(size=size, scale=scale)], flip=0.0)
    pairs, others = [], []
    for seed, file in enumerate(files):
        pairs.append(pair(ours, file, seed))
        random.seed(-1 - seed)
        others.append(ours.transform(dict(img_path=file))['img'][0])
    one, other = (torch.stack(views) for views in zip(*pairs, strict=True))
    difference = (one.int() - other.int()).abs().float()
    network = random_network()
    features = [network(x) for x in (one, other, torch.stack(others))]
    same, different = (cosine_similarity(features[0], x) for x in features[1:])
    return {
        'difference, mean': difference.mean().item(),
        'difference, mean of the worst photo': difference.mean((1, 2, 3)).max().item(),
        'difference, max': difference.max().item(),
        'cosine of features, mean': same.mean().item(),
        'cosine of features, least': same.min().item(),
        'cosine with another crop, mean': different.mean().item(),
    }


def pair(ours: RandomResizedCrops, file: str, seed: int) -> tuple[Tensor, Tensor]:
    """A crop of ours, and the same box on PIL."""
    random.seed(seed)
    (view,) = ours.transform(dict(img_path=file))['img']
    with Image.open(file) as image:
        random.seed(seed)
        (box,) = ours.draw_boxes(*image.size)
        size = [ours.views[0].size] * 2
        where = (box.top, box.left, box.height, box.width)
        theirs = resized_crop(image.convert('RGB'), *where, size, InterpolationMode.BILINEAR)
    return view, pil_to_tensor(theirs)


def random_network() -> nn.Module:
    """Pooled features of a ResNet-18 with random weights, of centered images."""
    torch.manual_seed(0)
    network = torchvision.models.resnet18()
    network.fc = nn.Identity()
    network.train()  # batch statistics: with running ones of 0 and 1 all features point one way

    @torch.no_grad()
    def features(images: Tensor) -> Tensor:
        mean, std = (torch.tensor(x).view(-1, 1, 1) for x in (MEAN, STD))
        x = network((images.float() - mean) / std)
        return x - x.mean(0)

    return features


# ---- views with random numbers of their own


def statistics_of_views(files: list[str], base: str, num_epochs: int) -> dict[str, float]:
    """Of normalized views: by view and channel, means and standard deviations of both pipelines."""
    both = [moments(files, f'{base}{suffix}', num_epochs) for suffix in ('', '_pil')]
    found = {}
    for v, (ours, theirs) in enumerate(zip(*both, strict=True)):
        for c, channel in enumerate('RGB'):
            for m, name in enumerate(('mean', 'std')):
                values = [x[:, c, m] for x in (ours, theirs)]
                error = sum(x.var() / len(x) for x in values).sqrt()
                where = f'view {v} {channel} {name}'
                found[f'{where}, ours'] = values[0].mean().item()
                found[f'{where}, published'] = values[1].mean().item()
                found[f'{where}, difference in standard errors'] = (
                    (values[0].mean() - values[1].mean()) / error
                ).item()
    return found


def moments(files: list[str], base: str, num_epochs: int) -> list[Tensor]:
    """For each view, mean and standard deviation of each channel of each image (n, 3, 2)."""
    cfg = Config.fromfile(BASES / f'{base}.py')
    pipeline, preprocessor = Compose(cfg.train_pipeline), MODELS.build(cfg.data_preprocessor)
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    rows = []
    for epoch in range(num_epochs):
        if hasattr(preprocessor, 'set_epoch'):
            preprocessor.set_epoch(0, epoch)
        for first in range(0, len(files), 20):
            chosen = enumerate(files[first : first + 20], first)
            batch = default_collate([pipeline(dict(img_path=x, sample_idx=i)) for i, x in chosen])
            views = preprocessor(batch, True)['inputs']
            views = views if isinstance(views, (list, tuple)) else [views]
            rows.append([torch.stack([x.mean((2, 3)), x.std((2, 3))], 2) for x in views])
    return [torch.cat(view) for view in zip(*rows, strict=True)]


def show(found: dict) -> None:
    for name, figures in found.items():
        if isinstance(figures, dict):
            table = Table(name, '')
            for what, figure in figures.items():
                table.add_row(what, f'{figure:,.4f}')
            Console().print(table)


if __name__ == '__main__':
    main()
