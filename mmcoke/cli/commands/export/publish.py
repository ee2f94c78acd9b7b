"""Make a checkpoint fit to be given away: its weights, named by their hash, and a metafile entry.

Optimizer, log, clustering state and all that could name a machine or a person stay behind. With
--config the weights are tried on the model that they are for.
"""

import argparse

HELP = 'the weights alone, named by their hash, to be given away'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('checkpoint', help='of CoKe, DeepCluster, ODC or another algorithm')
    parser.add_argument('--config', help='that it was trained with')
    parser.add_argument('--out', required=True, help='folder to write to')
    parser.add_argument('--name', help='of the model (that of the config, or else of the file)')
    parser.add_argument(
        '--keep-labels', action='store_true', help='keep the pseudo-labels of the training images'
    )
    parser.add_argument('--backbone-only', action='store_true', help='leave out neck and head')


def run(args: argparse.Namespace) -> None:
    from mmcoke.weights.publish import publish

    published = publish(
        args.checkpoint,
        args.out,
        name=args.name,
        config=args.config,
        keep_labels=args.keep_labels,
        backbone_only=args.backbone_only,
    )
    print(f'Wrote {published.path} ({published.kept}).')
    print(f'SHA-256 {published.sha256}')
    print(f'\nFor Models in configs/selfsup/<method>/metafile.yml:\n\n{published.metafile()}')
    print(
        'That is for a file in mmcoke/zoo/weights. If it is elsewhere, put its address into Weights'
    )
    print('and leave Source out.')
