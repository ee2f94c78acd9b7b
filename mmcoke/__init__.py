"""mmcoke: clustering-based self-supervised learning of image features."""

from . import _moved  # noqa: F401  (old names of modules)

__version__ = '0.1.0'


def __getattr__(name: str) -> object:
    # Not imported before it is used: the core does without OpenMMLab.
    if name == 'FeatureExtractor':
        from mmcoke.features.extractor import FeatureExtractor

        return FeatureExtractor
    if name == 'train':
        from mmcoke.cli.train_folder import train

        return train
    if name == 'sort':
        from mmcoke.curation.sort import sort

        return sort
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
