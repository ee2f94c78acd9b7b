"""Train on a folder of images, with settings that follow from them, or from a config.

    mmcoke train my/photos
    mmcoke train CONFIG.py --work-dir work_dirs/mine

A path that ends in .py and is a file is a config; tools/train.py does the same. A run that was
stopped goes on with the same command and --resume.
"""

import argparse
from pathlib import Path

from mmcoke.cli.options import add_options, home

HELP = 'train on a folder of images, or from a config'

FOR_FOLDERS = (
    *('config', 'start_from', 'epochs', 'batch_size', 'image_size', 'num_clusters'),
    *('num_workers', 'seed'),
)
FOR_CONFIGS = ('amp', 'compile', 'auto_scale_lr', 'launcher')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'source', type=home, metavar='FOLDER|CONFIG', help='folder of images, or config file'
    )
    parser.add_argument(
        *('--out', '--work-dir'),
        type=home,
        metavar='DIR',
        help='folder of the run: logs, checkpoints, report (work_dirs/FOLDER or CONFIG)',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from this checkpoint or, without a name, from the last one in --out',
    )
    parser.add_argument(
        '--skip-unreadable',
        action='store_true',
        help='go on without images that cannot be read, as with a folder in any case; '
        'unreadable.txt in --out names them',
    )
    add_options(parser, 'train_dataloader.batch_size=32')
    add_folder_arguments(parser.add_argument_group('with a folder'))
    add_config_arguments(parser.add_argument_group('with a config'))


def add_folder_arguments(group: argparse._ArgumentGroup) -> None:
    """What else can be said about a training on a folder."""
    group.add_argument('--config', type=home, help='another recipe than CoKe with two views')
    group.add_argument(
        '--start-from',
        type=home,
        metavar='MODEL|CHECKPOINT',
        help='begin with the backbone of a model of the zoo, or of a checkpoint',
    )
    numbers = dict(
        epochs='at a learning rate above 0',
        batch_size='images of an iteration',
        image_size='side of the crops, in pixels',
        num_workers='processes that load images',
        seed='of all random numbers (0)',
    )
    for name, text in numbers.items():
        group.add_argument(f'--{name.replace("_", "-")}', type=int, metavar='N', help=text)
    group.add_argument(
        '--num-clusters',
        type=int,
        nargs='+',
        metavar='K',
        help='of each clustering',
    )


def add_config_arguments(group: argparse._ArgumentGroup) -> None:
    """What else can be said about a training from a config."""
    group.add_argument(
        '--amp',
        nargs='?',
        const='float16',
        choices=['float16', 'bfloat16'],
        help='train in mixed precision (GPU); float16 unless bfloat16 is named',
    )
    group.add_argument(
        '--compile', action='store_true', help='compile backbone and neck (torch.compile)'
    )
    group.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate from auto_scale_lr.base_batch_size to the actual batch size',
    )
    group.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='what started this process (tools/dist_train.sh and slurm_train.sh set it)',
    )


def run(args: argparse.Namespace) -> None:
    path = Path(args.source)
    if path.is_file() and path.suffix == '.py':
        refuse(args, FOR_FOLDERS, 'a folder of images', 'Set it by --cfg-options.')
        from mmcoke.cli import train

        train.main(args)
    elif path.is_dir():
        remedy = 'mmcoke train OUT/config.py goes on with the config of a run.'
        refuse(args, FOR_CONFIGS, 'a config', remedy)
        from mmcoke.cli import train_folder

        train_folder.main(args)
    else:
        kind = 'config' if path.suffix == '.py' else 'folder or config'
        wrong(f'there is no {kind} {args.source!r}')


def refuse(args: argparse.Namespace, names: tuple[str, ...], what: str, remedy: str) -> None:
    """End with the status of wrong arguments if one was given that is for something else."""
    for name in names:
        if getattr(args, name) not in (None, False, 'none'):
            wrong(f'--{name.replace("_", "-")} is for {what}. {remedy}')


def wrong(message: str) -> None:
    from mmcoke.cli.ending import WrongArgumentsError

    raise WrongArgumentsError(message)
