"""Write frozen features of a data set to disk: of any checkpoint, in data-set order.

    python tools/extract_features.py CONFIG CHECKPOINT --data-root my/images --features pooled

CONFIG is of mmcoke or mmpretrain; for torchvision's ResNet-50 there is
mmpretrain::resnet/resnet50_8xb32_in1k.py. With several processes:

    python -m torch.distributed.run --standalone --nproc-per-node 8 tools/extract_features.py \\
        CONFIG CHECKPOINT --launcher pytorch

An interrupted run goes on where it was: give the same command again.
"""

from mmcoke.cli.commands import features
from mmcoke.cli.main import run_tool

if __name__ == '__main__':
    run_tool(features, __doc__)
