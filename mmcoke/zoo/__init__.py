"""The model zoo: find a model, see what is known about it, get its file.

Usage::

    from mmcoke import zoo

    zoo.list('coke*')                                   # names
    zoo.show('coke_r50_2view_1000e')                    # config, weights, paper, figures
    zoo.download('coke_r50_2view_1000e')                # path of a file that mmcoke loads
    zoo.download('coke_r50_2view_1000e', dest='.', convert='torchvision')

Importing this package imports neither torch nor mmengine.
"""

from .hub import register_models
from .index import Entry, Figure, Source
from .index import find as show
from .index import names as list
from .store import ADDRESS, cache_dir, download, local_file
from .transfer import DownloadError

__all__ = [
    'ADDRESS',
    'DownloadError',
    'Entry',
    'Figure',
    'Source',
    'cache_dir',
    'download',
    'list',
    'local_file',
    'register_models',
    'show',
]
