"""The registries of mmcoke: children of mmpretrain's, so one scope finds ``ResNet`` and ``CoKe``.

mmengine imports this module for ``default_scope = 'mmcoke'``. It imports only the locations of the
registry that it searches, not those of the parents; that is why each child names both packages.

For a name such as ``mmcoke.CoKe`` mmengine imports this module from any other scope, too, but looks
among the children of its root alone; that is why each registry is known to the root as well.
"""

import warnings
from importlib import import_module
from importlib.util import find_spec

import torch
from mmengine.utils import digit_version
from mmengine.version import __version__ as mmengine_version

if find_spec('mmcv') is None:
    raise ImportError(
        'mmcoke needs mmcv. Install the light one with `pip install mmcv-lite`, or the full one '
        '(with CUDA operators, for detection) with `pip install mmcv`; never both.'
    )
if not digit_version('0.10.7') <= digit_version(mmengine_version) < digit_version('1.0.0'):
    raise ImportError(
        f'mmcoke needs mmengine >= 0.10.7, < 1.0, but {mmengine_version} is installed. '
        'Run `pip install "mmengine>=0.10.7,<1"`.'
    )
if digit_version(torch.__version__) < digit_version('2.6'):
    raise ImportError(
        f'mmcoke needs torch >= 2.6, which loads no code from checkpoints, but {torch.__version__} '
        'is installed. Run `pip install "torch>=2.6"`.'
    )

# mmpretrain imports all of mmcv's bricks; the light mmcv has no compiled operators, and mmcoke
# needs none.
warnings.filterwarnings('ignore', message='Fail to import ``MultiScaleDeformableAttention``')

from mmengine.registry import Registry  # noqa: E402
from mmpretrain import registry as mmpretrain_registry  # noqa: E402


def _child(name: str, *locations: str) -> Registry:
    """Registry below mmpretrain's of the same name, which the root knows by its scope."""
    parent = getattr(mmpretrain_registry, name)
    registry = Registry(parent.name, parent=parent, scope='mmcoke', locations=list(locations))
    parent.root.children[registry.scope] = registry
    return registry


ENGINE = ('mmpretrain.engine', 'mmcoke.engine')
DATA = ('mmpretrain.datasets', 'mmcoke.datasets')
MODEL = ('mmpretrain.models', 'mmcoke.models', 'mmcoke.weights')
EVALUATION = ('mmpretrain.evaluation', 'mmcoke.evaluation')
VISUALIZATION = ('mmpretrain.visualization', 'mmcoke.engine')


RUNNERS = _child('RUNNERS', *ENGINE)
RUNNER_CONSTRUCTORS = _child('RUNNER_CONSTRUCTORS', *ENGINE)
LOOPS = _child('LOOPS', *ENGINE)
HOOKS = _child('HOOKS', *ENGINE)
LOG_PROCESSORS = _child('LOG_PROCESSORS', *ENGINE)
OPTIMIZERS = _child('OPTIMIZERS', *ENGINE)
OPTIM_WRAPPERS = _child('OPTIM_WRAPPERS', *ENGINE)
OPTIM_WRAPPER_CONSTRUCTORS = _child('OPTIM_WRAPPER_CONSTRUCTORS', *ENGINE)
PARAM_SCHEDULERS = _child('PARAM_SCHEDULERS', *ENGINE)
VISUALIZERS = _child('VISUALIZERS', *VISUALIZATION)
VISBACKENDS = _child('VISBACKENDS', *VISUALIZATION)
DATASETS = _child('DATASETS', *DATA)
DATA_SAMPLERS = _child('DATA_SAMPLERS', *DATA)
TRANSFORMS = _child('TRANSFORMS', *DATA)
MODELS = _child('MODELS', *MODEL)
MODEL_WRAPPERS = _child('MODEL_WRAPPERS', *ENGINE)
WEIGHT_INITIALIZERS = _child('WEIGHT_INITIALIZERS', *MODEL)
BATCH_AUGMENTS = _child('BATCH_AUGMENTS', *MODEL)
TASK_UTILS = _child('TASK_UTILS', *MODEL)
METRICS = _child('METRICS', *EVALUATION)
EVALUATORS = _child('EVALUATORS', *EVALUATION)

# By name, as the locations above: whatever is built from here on, no checkpoint runs code.
import_module('mmcoke.weights')
