"""Train a model from a config, in this process or as one process of many; or on a folder of images.

What `mmcoke train` does.
"""

from mmcoke.cli.commands import train
from mmcoke.cli.main import run_tool

if __name__ == '__main__':
    run_tool(train, __doc__)
