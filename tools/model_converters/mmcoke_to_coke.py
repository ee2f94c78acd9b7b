"""Turn a checkpoint of CoKe into the layout of the published code.

Its linear evaluation reads the result; to resume there, an optimizer state would have to be added.
"""

from mmcoke.cli.commands.export import coke
from mmcoke.cli.main import run_tool

if __name__ == '__main__':
    run_tool(coke, __doc__)
