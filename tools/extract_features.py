"""Write frozen features of a data set to disk: of any checkpoint, in data-set order.

    python tools/extract_features.py CONFIG CHECKPOINT --data-root my/images --features pooled

CONFIG is of mmcoke or mmpretrain; for torchvision's ResNet-50 there is
mmpretrain::resnet/resnet50_8xb32_in1k.py. With several processes:

    python -m torch.distributed.run --standalone --nproc-per-node 8 tools/extract_features.py \\
        CONFIG CHECKPOINT --launcher pytorch

An interrupted run goes on where it was: give the same command again.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from mmengine.config import DictAction
from mmengine.dist import is_main_process
from rich.progress import track
from torch.distributed.elastic.multiprocessing.errors import record

from mmcoke import zoo
from mmcoke.engine.launch import default_work_dir, joined_processes
from mmcoke.evaluation.backbones import load_frozen, read_config
from mmcoke.evaluation.feature_store import FEATURES, extract_to_disk
from mmcoke.evaluation.plain_images import config_images, folder_images


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file that describes the network')
    parser.add_argument(
        'checkpoint',
        help="of mmcoke, mmpretrain, mmselfsup or torchvision's names; or mmcoke://NAME",
    )
    data = parser.add_mutually_exclusive_group()
    data.add_argument('--data-root', help='folder of images; its subfolders are the classes')
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
    parser.add_argument('--out', help='folder of the arrays (work_dirs/CONFIG/features/DATA)')
    parser.add_argument('--size', type=int, default=224, help='side of the images (%(default)s)')
    parser.add_argument('--batch-size', type=int, default=64, help='images at a time (%(default)s)')
    parser.add_argument(
        '--num-workers',
        type=int,
        default=min(4, os.cpu_count()),
        help='processes that load images, per process (%(default)s)',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='override settings of the config, such as train_dataloader.dataset.data_root=my/data',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch'],
        default='none',
        help='pytorch, where torchrun started this process',
    )
    return parser.parse_args()


def extract(args: argparse.Namespace) -> None:
    """Load, extract, and say where the features are."""
    cfg = read_config(args.config)
    cfg.merge_from_dict(args.cfg_options)
    data = Path(args.data_root).resolve().name if args.data_root else args.split
    out = Path(args.out or Path(default_work_dir(args.config)) / 'features' / data)
    with joined_processes(args.launcher) as device:
        network = load_frozen(cfg, zoo.local_file(args.checkpoint))
        if args.data_root:
            dataset = folder_images(network, args.data_root, size=args.size)
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
            progress=progress_bar(),
        )
        for name, array in arrays.items() if is_main_process() else ():
            print(f'{out / name}.npy  {array.dtype} {array.shape}')


def progress_bar() -> Callable[[Iterable], Iterable]:
    """A bar in the main process, whose part is as large as any."""
    return partial(track, description='Extracting') if is_main_process() else iter


@record
def main() -> None:
    try:
        extract(parse_args())
    except (OSError, ValueError) as error:
        raise SystemExit(f'error: {error}') from error
    except KeyboardInterrupt:
        print('\nInterrupted. Give the same command again to go on.', file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == '__main__':
    main()
