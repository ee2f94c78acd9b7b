"""Write frozen features of a data set to disk: tools/extract_features.py."""

import argparse
from pathlib import Path

import torch
from mmengine.dist import is_main_process

from mmcoke.engine.launch import default_work_dir
from mmcoke.features.backbones import load_frozen, read_config
from mmcoke.features.plain_images import config_images, folder_images
from mmcoke.features.store import FEATURES, extract_to_disk, rows_left_out
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
    arrays = extract_to_disk(
        network,
        dataset,
        out,
        {name: FEATURES[name] for name in args.features},
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        device=device,
        progress=progress_bar('Extracting'),
        skip_unreadable=args.skip_unreadable,
    )
    if not is_main_process():
        return
    for name, array in arrays.items():
        print(f'{out / name}.npy  {array.dtype} {array.shape}')
    if left_out := rows_left_out(out):
        print(f'{len(left_out):,} images cannot be read; their rows are NaN: {out / UNREADABLE}')
