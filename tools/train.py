"""Train a model from a config, in this process or as one process of many."""

import argparse
from pathlib import Path

from mmcoke.cli.options import add_options


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='folder of logs and checkpoints (work_dirs/CONFIG)')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from this checkpoint or, without a name, from the last one in the work dir',
    )
    parser.add_argument(
        '--amp',
        nargs='?',
        const='float16',
        choices=['float16', 'bfloat16'],
        help='train in mixed precision (GPU); float16 unless bfloat16 is named',
    )
    parser.add_argument(
        '--compile', action='store_true', help='compile backbone and neck (torch.compile)'
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate from auto_scale_lr.base_batch_size to the actual batch size',
    )
    parser.add_argument(
        '--skip-unreadable',
        action='store_true',
        help='go on without images that cannot be read; unreadable.txt in the work dir names them',
    )
    add_options(parser, 'train_dataloader.batch_size=32')
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='what started this process (tools/dist_train.sh and slurm_train.sh set it)',
    )
    args = parser.parse_args()
    if not Path(args.config).is_file():
        parser.error(f'there is no config {args.config!r}')
    return args


def main() -> None:
    args = parse_args()
    from mmcoke.cli import train

    train.main(args)


if __name__ == '__main__':
    main()
