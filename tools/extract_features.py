"""Write frozen features of a data set to disk: of any checkpoint, in data-set order.

    python tools/extract_features.py CONFIG CHECKPOINT --data-root my/images --features pooled

CONFIG is of mmcoke or mmpretrain; for torchvision's ResNet-50 there is
mmpretrain::resnet/resnet50_8xb32_in1k.py. With several processes:

    python -m torch.distributed.run --standalone --nproc-per-node 8 tools/extract_features.py \\
        CONFIG CHECKPOINT --launcher pytorch

An interrupted run goes on where it was: give the same command again.
"""

import argparse
from pathlib import Path

import torch
from mmengine.dist import is_main_process
from torch.distributed.elastic.multiprocessing.errors import record

from mmcoke import zoo
from mmcoke.cli.frozen_network import add_image_options, network_parser, progress_bar, run
from mmcoke.cli.options import home, merge_options
from mmcoke.engine.launch import default_work_dir
from mmcoke.features.backbones import load_frozen, read_config
from mmcoke.features.plain_images import config_images, folder_images
from mmcoke.features.store import FEATURES, extract_to_disk, rows_left_out
from mmcoke.features.unreadable import UNREADABLE


def parse_args() -> argparse.Namespace:
    parser = network_parser(__doc__, out='folder of the arrays (work_dirs/CONFIG/features/DATA)')
    data = parser.add_mutually_exclusive_group()
    data.add_argument(
        '--data-root',
        type=home,
        help='folder of images; its subfolders are the classes',
    )
    data.add_argument(
        '--split',
        choices=['train', 'val', 'test'],
        default='train',
        help="which of the config's data sets, without --data-root (%(default)s)",
    )
    parser.add_argument(
        '--features',
        nargs='+',
        choices=list(FEATURES),
        default=['pooled'],
        metavar='NAME',
        help=f'some of {", ".join(FEATURES)} (pooled)',
    )
    add_image_options(parser)
    return parser.parse_args()


def extract(args: argparse.Namespace, device: torch.device) -> None:
    """Load, extract, and say where the features are."""
    cfg = read_config(args.config)
    merge_options(cfg, args.cfg_options)
    data = Path(args.data_root).resolve().name if args.data_root else args.split
    out = Path(args.out or Path(default_work_dir(args.config)) / 'features' / data)
    network = load_frozen(cfg, zoo.local_file(home(args.checkpoint)))
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


@record
def main() -> None:
    run(extract, parse_args())


if __name__ == '__main__':
    main()
