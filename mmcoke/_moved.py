"""Modules of version 0.1 that the docs named, under the names that they have now."""

import sys
import warnings
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    'mmcoke.evaluation.backbones': 'mmcoke.features.backbones',
    'mmcoke.evaluation.feature_store': 'mmcoke.features.store',
    'mmcoke.evaluation.features': 'mmcoke.features.extraction',
    'mmcoke.evaluation.gallery': 'mmcoke.reporting.gallery',
    'mmcoke.evaluation.plain_images': 'mmcoke.features.plain_images',
    'mmcoke.evaluation.report': 'mmcoke.reporting.report',
    'mmcoke.evaluation.results': 'mmcoke.reporting.results',
    'mmcoke.evaluation.voc': 'mmcoke.datasets.voc',
    'mmcoke.inference': 'mmcoke.features.extractor',
    'mmcoke.models.publish': 'mmcoke.weights.publish',
    'mmcoke.onnx_export': 'mmcoke.features.onnx_export',
}


class MovedModules(MetaPathFinder, Loader):
    """Imports the module of today for a name of yesterday, and says so once."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        new = MOVED[spec.name]
        warnings.warn(f'{spec.name} is {new} now.', FutureWarning, stacklevel=2)
        module = import_module(new)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """It has been executed under its own name, which it keeps."""
        module.__spec__ = module.__spec__.loader_state


sys.meta_path.append(MovedModules())
