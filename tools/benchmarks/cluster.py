"""How well clusters agree with classes: k-means of frozen features, and a checkpoint's own labels.

    python tools/benchmarks/cluster.py CONFIG CHECKPOINT --data-root data/imagenet

k-means finds as many clusters as there are classes in the validation images. The pseudo-labels that
a checkpoint of mmcoke holds are those of its training images, so these are needed as well: in
DATA_ROOT/train, or where the config says.
"""

import argparse

import torch
from mmengine.dist import is_main_process
from torch.distributed.elastic.multiprocessing.errors import record

from mmcoke.cli.frozen_network import (
    extract_splits,
    frozen_parser,
    load_config,
    progress_bar,
    report,
    run,
)
from mmcoke.clustering.kmeans import import_faiss
from mmcoke.evaluation.clusterings import kmeans_scores, own_scores


def parse_args() -> argparse.Namespace:
    parser = frozen_parser(__doc__)
    parser.add_argument(
        '--split', choices=['train', 'val'], default='val', help='images for k-means (%(default)s)'
    )
    parser.add_argument(
        '--restarts', type=int, default=5, help='runs of k-means; the best one counts (%(default)s)'
    )
    return parser.parse_args()


def cluster(args: argparse.Namespace, device: torch.device) -> None:
    """Extract, cluster, compare, write the scores."""
    import_faiss()  # missing, it would be missed only after all features are extracted
    cfg = load_config(args)
    x, y = extract_splits(args, cfg, (args.split,), device)[args.split]
    if not is_main_process():
        return
    bar = progress_bar('k-means')
    rows = [
        dict(clusters='k-means', images=args.split)
        | kmeans_scores(x, y, num_restarts=args.restarts, progress=bar)
    ]
    own = own_scores(cfg, args.checkpoint, data_root=args.data_root)
    rows += [dict(clusters=name, images='train', **scores) for name, scores in own.items()]
    protocol = (
        f'clusters against classes: accuracy under the best one-to-one matching (Hungarian '
        f'method), NMI (arithmetic mean) and ARI, 0 ... 1. k-means: as many clusters as classes, '
        f'L2-normalized pooled features of {args.size}x{args.size} crops, the one with the least '
        f'objective of {args.restarts}. labelers: pseudo-labels in the checkpoint'
    )
    report(args, 'cluster', rows, protocol)


@record
def main() -> None:
    run(cluster, parse_args())


if __name__ == '__main__':
    main()
