"""How well clusters agree with classes: k-means of frozen features, and a checkpoint's own labels.

    python tools/benchmarks/cluster.py CONFIG CHECKPOINT --data-root data/imagenet

k-means finds as many clusters as there are classes in the validation images. The pseudo-labels that
a checkpoint of mmcoke holds are those of its training images, so these are needed as well: in
DATA_ROOT/train, or where the config says.
"""

from mmcoke.cli.commands.evaluate import cluster
from mmcoke.cli.main import run_tool

if __name__ == '__main__':
    run_tool(cluster, __doc__)
