"""The model zoo in mmpretrain's own: ``get_model`` and ``list_models`` know its models.

Usage::

    from mmcoke import zoo
    from mmpretrain import get_model, list_models

    zoo.register_models()
    list_models('*coke*')
    model = get_model('coke_r50_2view_1000e', pretrained=True)

A call, not the import of :mod:`mmcoke.zoo`, because that would load mmpretrain.
"""

from typing import TYPE_CHECKING

from .index import Entry, entries, index_file

if TYPE_CHECKING:
    from mmengine.config import Config


def register_models() -> None:
    """Make the models of mmcoke known to mmpretrain, by all their names; a second call is harmless.

    Weights are downloaded by :func:`mmcoke.zoo.download`, so they are checked, and kept.
    """
    import mmcoke.registry  # noqa: F401  (first: it keeps mmcv quiet about missing operators)

    # isort: split
    from mmpretrain.apis.model import ModelHub

    own = [entry for entry in entries() if entry.layout != 'mmpretrain']
    if ModelHub.has(own[0].name.lower()):
        return
    ModelHub.register_model_index(index_file(), config_prefix=index_file().parent)
    for entry in own:
        model = ModelHub._models_dict[entry.name.lower()]
        model.config = config_for_any_scope(entry)
        model.weights = None if entry.source.kind == 'none' else f'mmcoke://{entry.name}'
        for alias in entry.aliases:
            ModelHub._models_dict[alias.lower()] = model


def config_for_any_scope(entry: Entry) -> 'Config':
    """The config of a model; mmpretrain builds it in its own scope, where ours is unknown."""
    from mmengine.config import Config

    config = Config.fromfile(entry.config)
    config.model['_scope_'] = 'mmcoke'
    return config
