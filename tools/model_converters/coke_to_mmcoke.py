"""Turn a checkpoint of the published CoKe code into one of mmcoke.

Takes the files of one view, of two views and of multi-crop. Weights are there in any case; centers,
duals and labels where the file has them. The optimizer is left out: train on with ``load_from``.
"""

from mmcoke.cli.commands.export import mmcoke
from mmcoke.cli.main import run_tool

if __name__ == '__main__':
    run_tool(mmcoke, __doc__)
