"""Make a checkpoint fit to be given away: its weights, named by their hash, and a metafile entry.

Optimizer, log, clustering state and all that could name a machine or a person stay behind. With
--config the weights are tried on the model that they are for.
"""

from mmcoke.cli.commands.export import publish
from mmcoke.cli.main import run_tool

if __name__ == '__main__':
    run_tool(publish, __doc__)
