"""Weighted k-nearest neighbours on frozen features, of any checkpoint.

    python tools/benchmarks/knn.py CONFIG CHECKPOINT --data-root data/imagenet

With several processes:

    python -m torch.distributed.run --standalone --nproc-per-node 8 tools/benchmarks/knn.py \\
        CONFIG CHECKPOINT --data-root data/imagenet --launcher pytorch

An interrupted run goes on where it was: give the same command again.
"""

from mmcoke.cli.commands.evaluate import knn
from mmcoke.cli.main import run_tool

if __name__ == '__main__':
    run_tool(knn, __doc__)
