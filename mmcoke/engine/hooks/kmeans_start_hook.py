"""Says when CoKe's first labels are made by k-means."""

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmcoke.clustering.settings import check_number
from mmcoke.engine.model_wrappers import unwrap
from mmcoke.registry import HOOKS

from .refit_hook import cluster_on_main, features_of_all, logged


@HOOKS.register_module()
class KMeansStartHook(Hook):
    """Gives CoKe labels and centers from k-means of all images, once, before it trains.

    Not published. At the end of the epoch at learning rate 0, which stays, for its batches give BN
    the statistics that these features need: projections of the images without augmentation, by the
    network in evaluation mode, are clustered for each clustering by spherical k-means, in the main
    process. Goes behind ``CoKeHook`` in ``custom_hooks``, so it runs after the centers of that
    epoch were published, and before ``CheckpointHook``: a resumed run has its labels, and does not
    cluster again.

    Args:
        pipeline: transforms without augmentation, for the features. Images are loaded by the
            training set's own transforms.
        epoch: after which it clusters, numbered from 0: the last one at learning rate 0.
        batch_size, num_workers: for the features, per process; they do not change the results.

    Raises:
        ValueError: if one of these is out of its range; in training, if the model is not CoKe's.
    """

    def __init__(
        self, pipeline: list[dict], epoch: int = 0, batch_size: int = 128, num_workers: int = 0
    ) -> None:
        check_number('epoch', epoch, '[0, inf)', whole=True)
        check_number('batch_size', batch_size, '[1, inf)', whole=True)
        check_number('num_workers', num_workers, '[0, inf)', whole=True)
        self.pipeline, self.epoch = pipeline, epoch
        self.batch_size, self.num_workers = batch_size, num_workers

    def before_train(self, runner: Runner) -> None:
        method = type(unwrap(runner.model)).__name__
        if not method.endswith('CoKe'):
            raise ValueError(
                f'KMeansStartHook is for CoKe, not for {method}: remove it from custom_hooks.'
            )

    def after_train_epoch(self, runner: Runner) -> None:
        if runner.epoch != self.epoch:
            return
        labelers = unwrap(runner.model).labelers
        options = dict(batch_size=self.batch_size, num_workers=self.num_workers)
        _, x_AD, left_out = features_of_all(
            runner, self.pipeline, keep=is_main_process(), **options
        )
        progress = logged(runner, 'CoKe: k-means of the first labels')
        for labeler in labelers:
            num_samples = labeler.newest.num_samples
            found = cluster_on_main(labeler, x_AD, num_samples, progress, left_out)
            labeler.start_from(found.label, found.centers)
            labeler.newest.forget(torch.tensor(left_out, dtype=torch.int64))
