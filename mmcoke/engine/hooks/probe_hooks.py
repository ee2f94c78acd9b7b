"""What the features are worth while they are trained, measured on a labelled set."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from mmengine.dist import broadcast, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from mmcoke.clustering.settings import check_number
from mmcoke.datasets.seeded_pipeline import kept_random_state, seed_random
from mmcoke.engine.model_wrappers import unwrap
from mmcoke.evaluation.knn import check_num_neighbours, knn_classify_many
from mmcoke.evaluation.linear_probe import linear_probe
from mmcoke.features.extraction import check_same_classes, gather_rows, own_features, pooled
from mmcoke.registry import DATASETS, HOOKS

from .refit_hook import logged


class ProbeHook(Hook):
    """Classifies a labelled set by the pooled output of the backbone, every few epochs.

    The accuracy (0 ... 1) is in the log and, as ``NAME/acc``, among the curves, with the epoch as
    its step; the last epoch is measured in any case. Beside it is ``NAME/seconds``: those that
    training has taken up to there, without this probe, and through all resumes. Training goes on as
    if nothing had been measured: the same losses and weights, bit for bit.

    All processes extract; the first one classifies. The network is the one that a checkpoint of
    the epoch would hold.

    Args:
        train, test: configs of data sets with labels, whose pipelines make one view without
            augmentation.
        interval: epochs from one measurement to the next.
        max_samples: images used of each set, chosen at random, always the same.
        batch_size, num_workers: for the features, per process; they do not change the results.

    Raises:
        ValueError: if ``interval`` or ``max_samples`` is below 1.
    """

    name: str
    priority = 'LOW'  # after what changes the model, before it is saved
    clock = staticmethod(time.perf_counter)

    def __init__(
        self,
        train: dict,
        test: dict,
        *,
        interval: int = 10,
        max_samples: int = 10_000,
        batch_size: int = 128,
        num_workers: int = 0,
    ) -> None:
        check_number('interval', interval, '[1, inf)', whole=True)
        check_number('max_samples', max_samples, '[1, inf)', whole=True)
        self.train, self.test = train, test
        self.interval, self.max_samples = interval, max_samples
        self.batch_size, self.num_workers = batch_size, num_workers

    def before_train(self, runner: Runner) -> None:
        """Load the data sets.

        Raises:
            ValueError: if training does not go by epochs, or the labels are not usable.
        """
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise ValueError(
                f'{type(self).__name__} goes by epochs: set train_cfg=dict(by_epoch=True, ...), '
                f'not {type(runner.train_loop).__name__}.'
            )
        with kept_random_state():
            datasets = [DATASETS.build(cfg) for cfg in (self.train, self.test)]
            check_same_classes(*datasets)
            self._sets = [labelled_part(dataset, self.max_samples) for dataset in datasets]
        self.check(*(labels for _, labels in self._sets))
        self._begun = self.clock()

    _seconds: float = 0.0
    _begun: float | None = None

    def seconds(self) -> float:
        """Those of training so far, without the probe."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # an epoch ends when its last step is done
        return self._seconds + self.clock() - self._begun

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Let a resumed run go on counting."""
        if self._begun is not None:
            checkpoint[f'{self.name}_seconds'] = self.seconds()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if runner._resume:
            self._seconds = float(checkpoint.get(f'{self.name}_seconds', 0.0))

    def check(self, y_train: Tensor, y_test: Tensor) -> None:
        """Refuse labels that cannot be classified, before training starts."""

    def predict(self, x_train: Tensor, y_train: Tensor, x_test: Tensor) -> Tensor:
        """Labels of the test features, int64 (B,)."""
        raise NotImplementedError

    def after_train_epoch(self, runner: Runner) -> None:
        """Measure, if it is time."""
        if not (self.every_n_epochs(runner, self.interval) or self.is_last_train_epoch(runner)):
            return
        self._seconds = self.seconds()
        start = self.clock()
        with kept_random_state():
            seed_random(0)
            accuracy = self.accuracy(runner)
        self._begun = self.clock()
        seconds, epoch = self._begun - start, runner.epoch + 1
        curves = {f'{self.name}/acc': accuracy, f'{self.name}/seconds': self._seconds}
        runner.visualizer.add_scalars(curves, step=epoch)
        num_train, num_test = (len(labels) for _, labels in self._sets)
        runner.logger.info(
            f'Epoch [{epoch}] {self.name}: acc {accuracy:.4f} ({num_train} training and {num_test} '
            f'test images, {seconds:.1f} s)'
        )

    def accuracy(self, runner: Runner) -> float:
        """Share of the test images that are classified right; the same on all processes."""
        model = unwrap(runner.model)
        with buffers_of_main(model.backbone):
            x_train, x_test = (self.features(runner, dataset) for dataset, _ in self._sets)
        share = torch.zeros(1, dtype=torch.float64)
        if is_main_process():
            (_, y_train), (_, y_test) = self._sets
            share[0] = (self.predict(x_train, y_train, x_test) == y_test).double().mean()
        # NCCL sends what is on its device only.
        share = share.to(next(model.parameters()).device)
        broadcast(share)
        return share.item()

    def features(self, runner: Runner, dataset: Dataset) -> Tensor | None:
        """Pooled features of all images, in the main process, on the model's device."""
        model = unwrap(runner.model)
        x_nD = own_features(
            model,
            dataset,
            forward=pooled,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            progress=logged(runner, f'{self.name}: features'),
        )
        x_AD = gather_rows(x_nD, len(dataset), keep=is_main_process())
        return None if x_AD is None else x_AD.to(next(model.parameters()).device)


@HOOKS.register_module()
class KNNHook(ProbeHook):
    """Accuracy of weighted k-nearest neighbours during pre-training.

    .. code:: python

        custom_hooks = [
            dict(type='CoKeHook'),
            dict(type='KNNHook', train=dict(type='CustomDataset', ...), test=..., interval=10),
        ]

    Args:
        train, test: see :class:`ProbeHook`, and for its other arguments.
        k, temperature: see :func:`mmcoke.evaluation.knn_classify`.
    """

    name = 'knn'

    def __init__(
        self, train: dict, test: dict, *, k: int = 20, temperature: float = 0.07, **kwargs
    ) -> None:
        super().__init__(train, test, **kwargs)
        check_number('k', k, '[1, inf)', whole=True)
        check_number('temperature', temperature, '(0, inf)')
        self.k, self.temperature = k, temperature

    def check(self, y_train: Tensor, y_test: Tensor) -> None:
        check_num_neighbours(self.k, len(y_train))

    def predict(self, x_train: Tensor, y_train: Tensor, x_test: Tensor) -> Tensor:
        options = dict(ks=(self.k,), temperature=self.temperature)
        return knn_classify_many(x_train, y_train, x_test, **options)[self.k].cpu()


@HOOKS.register_module()
class LinearProbeHook(ProbeHook):
    """Accuracy of logistic regression on frozen features during pre-training.

    Exact, by L-BFGS on CPU: :func:`mmcoke.evaluation.linear_probe`. Arguments: see
    :class:`ProbeHook`.
    """

    name = 'linear_probe'

    def check(self, y_train: Tensor, y_test: Tensor) -> None:
        if len(y_train.unique()) < 2:
            raise ValueError('A linear probe needs training images of at least two classes.')

    def predict(self, x_train: Tensor, y_train: Tensor, x_test: Tensor) -> Tensor:
        return linear_probe(x_train, y_train, x_test)


def labelled_part(dataset: Dataset, max_samples: int) -> tuple[Dataset, Tensor]:
    """A data set, or a random part of it that is always the same, and its labels, int64 (A,).

    Raises:
        ValueError: if an image has not exactly one label.
    """
    chosen = np.random.default_rng(0).permutation(len(dataset))[:max_samples]
    chosen = np.sort(chosen).tolist()
    labels = [np.ravel(dataset.get_data_info(i).get('gt_label', [])) for i in chosen]
    if not all(label.size == 1 and label[0] >= 0 for label in labels):
        raise ValueError(
            f'{type(dataset).__name__} has images without a label, or with several. A probe needs '
            'a data set with one class per image, such as a CustomDataset with a folder per class.'
        )
    return Subset(dataset, chosen), torch.from_numpy(np.concatenate(labels)).long()


@contextmanager
def buffers_of_main(module: nn.Module) -> Iterator[None]:
    """Have the buffers of the main process meanwhile, such as the averages of batch norm.

    Those of other processes are their own unless layers are synchronized, and a checkpoint holds
    those of the main process.
    """
    own = [buffer.clone() for buffer in module.buffers()]
    for buffer in module.buffers():
        broadcast(buffer)
    try:
        yield
    finally:
        for buffer, value in zip(module.buffers(), own, strict=True):
            buffer.copy_(value)
