"""The model zoo: list the models, show what is known about one, download its file.

    python tools/zoo.py list 'coke*'
    python tools/zoo.py show coke_r50_2view_1000e
    python tools/zoo.py download coke_r50_2view_1000e --convert torchvision --dest .

``download`` prints the path of the file, for CHECKPOINT=$(python tools/zoo.py download NAME).
Mirrors, offline use and the cache: docs/zoo.md.
"""

from mmcoke.cli.commands import zoo
from mmcoke.cli.main import run_tool

if __name__ == '__main__':
    run_tool(zoo, __doc__)
