"""Export the ResNet of a checkpoint as a state dict for torchvision or timm, without a classifier.

Both name the weights of a ResNet alike, so the files are the same; ``--timm`` shows how timm loads
them.
"""

from mmcoke.cli.commands.export import torchvision
from mmcoke.cli.main import run_tool

if __name__ == '__main__':
    run_tool(torchvision, __doc__)
