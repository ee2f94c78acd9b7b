"""Check that a data set is there, complete and readable; say what is wrong and how to fix it.

Writes the list files that are missing, such as meta/train.txt, where the images are complete.
The exit code is 0 if nothing is wrong, else 1.
"""

from mmcoke.cli.commands import check
from mmcoke.cli.main import run_tool

if __name__ == '__main__':
    run_tool(check, __doc__)
