"""Make a checkpoint fit to be given away: its weights, named by their hash, and a metafile entry.

Optimizer, log, clustering state and all that could name a machine or a person stay behind. With
--config the weights are tried on the model that they are for.
"""

import argparse


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('checkpoint', help='of CoKe, DeepCluster, ODC or another algorithm')
    parser.add_argument('--config', help='that it was trained with')
    parser.add_argument('--out', required=True, help='folder to write to')
    parser.add_argument('--name', help='of the model (that of the config, or else of the file)')
    parser.add_argument(
        '--keep-labels', action='store_true', help='keep the pseudo-labels of the training images'
    )
    parser.add_argument('--backbone-only', action='store_true', help='leave out neck and head')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from mmcoke.weights.publish import publish

    try:
        published = publish(
            args.checkpoint,
            args.out,
            name=args.name,
            config=args.config,
            keep_labels=args.keep_labels,
            backbone_only=args.backbone_only,
        )
    except (OSError, ValueError) as error:
        raise SystemExit(f'error: {error}') from error
    print(f'Wrote {published.path} ({published.kept}).')
    print(f'SHA-256 {published.sha256}')
    print(f'\nFor Models in configs/selfsup/<method>/metafile.yml:\n\n{published.metafile()}')
    print(
        'That is for a file in mmcoke/zoo/weights. If it is elsewhere, put its address into Weights'
    )
    print('and leave Source out.')


if __name__ == '__main__':
    main()
