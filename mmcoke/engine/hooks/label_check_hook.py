"""Refuses labelled data that do not fit together."""

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.datasets import BaseDataset

from mmcoke.engine.model_wrappers import unwrap
from mmcoke.messages import some
from mmcoke.registry import HOOKS


@HOOKS.register_module()
class LabelCheckHook(Hook):
    """Compares the classes of training set, validation set and head before training.

    Where folders are the classes, one that is absent from one of the sets gives another label to
    all that follow, and nothing else would notice.
    """

    def before_train(self, runner: Runner) -> None:
        """Raises ValueError with what differs."""
        head = unwrap(runner.model).head
        sets = dict(training=runner.train_dataloader.dataset)
        if runner.val_loop is not None:
            sets['validation'] = runner.val_dataloader.dataset
        names = {key: dataset.CLASSES for key, dataset in sets.items() if dataset.CLASSES}
        if len(names) == 2:
            check_equal(names['training'], names['validation'])
        for key, dataset in sets.items():
            found = count_classes(dataset)
            fits = found == head.num_classes if key in names else found <= head.num_classes
            if not fits:
                raise ValueError(
                    f'The {key} set has {found} classes, but the head {head.num_classes}. Check '
                    f'the data, or set --cfg-options model.head.num_classes={found}'
                )


def check_equal(training: tuple[str, ...], validation: tuple[str, ...]) -> None:
    """ValueError unless both sets have the same classes."""
    if tuple(training) != tuple(validation):
        lacks = {
            'validation': sorted(set(training) - set(validation)),
            'training': sorted(set(validation) - set(training)),
        }
        said = '; '.join(
            f'the {key} set lacks {some(names)} ({len(names)})'
            for key, names in lacks.items()
            if names
        )
        raise ValueError(
            f'The classes differ, so the same label would mean different things: '
            f'{said or "they are in another order"}. Complete the folders, or name lists of '
            'images and labels in ann_file of both sets.'
        )


def count_classes(dataset: BaseDataset) -> int:
    """Number of classes that a data set names or, if it names none, the highest label plus 1."""
    return len(dataset.CLASSES) if dataset.CLASSES else int(dataset.get_gt_labels().max()) + 1
