"""Write frozen features of a data set to disk: tools/extract_features.py."""

import argparse
from pathlib import Path

import numpy as np
import torch
from mmengine.dist import is_main_process
from torch import Tensor

from mmcoke.engine.launch import default_work_dir
from mmcoke.features.backbones import load_frozen, read_config
from mmcoke.features.encodings import (
    SOURCE,
    TRIANGLE,
    cluster_pooled,
    encode_triangle,
    known_centers,
)
from mmcoke.features.plain_images import config_images, folder_images
from mmcoke.features.store import extract_to_disk, feature_of, rows_left_out
from mmcoke.features.unreadable import UNREADABLE

from .frozen_network import locate, progress_bar, run
from .options import merge_options


def main(args: argparse.Namespace) -> None:
    run(extract, args)


def extract(args: argparse.Namespace, device: torch.device) -> None:
    """Load, extract, and say where the features are."""
    locate(args)
    cfg = read_config(args.config)
    merge_options(cfg, args.cfg_options)
    data = Path(args.data_root).resolve().name if args.data_root else args.split
    out = Path(args.out or Path(default_work_dir(args.config)) / 'features' / data)
    network = load_frozen(cfg, args.checkpoint)
    if args.data_root:
        dataset = folder_images(network, args.data_root, size=args.size, cfg=cfg)
    else:
        dataset = config_images(cfg, network, split=args.split, size=args.size)
    names = dict.fromkeys(SOURCE if name == TRIANGLE else name for name in args.features)
    with_triangle, centers = TRIANGLE in args.features, None
    if with_triangle:  # what does not fit is refused ahead of the work
        centers = known_centers(out, network, num_clusters=args.num_clusters, path=args.centers)
        check_number(args.num_clusters, len(dataset))
    arrays = extract_to_disk(
        network,
        dataset,
        out,
        {name: feature_of(name) for name in names},
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        device=device,
        progress=progress_bar('Extracting'),
        skip_unreadable=args.skip_unreadable,
    )
    if with_triangle:
        arrays = add_triangle(args, out, centers, device)
    if not is_main_process():
        return
    for name, array in arrays.items():
        print(f'{out / name}.npy  {array.dtype} {array.shape}')
    if left_out := rows_left_out(out):
        print(f'{len(left_out):,} images cannot be read; their rows are NaN: {out / UNREADABLE}')


def check_number(num_clusters: int | None, num_images: int) -> None:
    """ValueError if there are more clusters than images."""
    if num_clusters is not None and num_clusters > num_images:
        raise ValueError(
            f'--num-clusters is {num_clusters}, but there are {num_images} images. Choose fewer '
            'clusters, or give more images.'
        )


def add_triangle(
    args: argparse.Namespace, out: Path, centers: Tensor | None, device: torch.device
) -> dict[str, np.ndarray]:
    """Encode the pooled features by known centers, or by those of their own clusters."""
    if centers is None:
        options = dict(device=device, progress=progress_bar('Clustering'))
        centers = cluster_pooled(out, args.num_clusters, **options)
    return encode_triangle(out, centers, device=device, progress=progress_bar('Encoding'))
