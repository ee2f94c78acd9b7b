"""Cluster a folder of photos by what is on them, and show the clusters on a page.

    python tools/photo_gallery.py my/photos NAME --num-clusters 20
    python tools/photo_gallery.py my/photos --config CONFIG --checkpoint CHECKPOINT \\
        --num-clusters 20

NAME is a model of the zoo. The page holds everything and can be passed on. Steps 1 to 3 in
mmcoke/cli/photo_gallery.py are also what you would type into a notebook.
"""

from mmcoke.cli.commands import gallery
from mmcoke.cli.main import run_tool

if __name__ == '__main__':
    run_tool(gallery, __doc__)
