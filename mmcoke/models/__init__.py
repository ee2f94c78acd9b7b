"""Algorithms, heads, backbones and data preprocessors that configs can name."""

from mmcoke import registry  # noqa: F401 (checks the installed versions before mmpretrain is imported)
from mmcoke.weights import StrictPretrained  # noqa: F401  (it was here before)

from .algorithms import *  # noqa: F403
from .backbones import *  # noqa: F403
from .classifiers import *  # noqa: F403
from .data_preprocessors import *  # noqa: F403
from .heads import *  # noqa: F403
from .necks import *  # noqa: F403
