"""Clusters the features of all images, for the hooks of DeepCluster and ODC."""

import time
from collections.abc import Callable, Iterable, Iterator

import torch
from mmengine.dataset import Compose
from mmengine.dist import broadcast, is_main_process
from mmengine.runner import Runner
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor, nn

from mmcoke.clustering import KMeansResult
from mmcoke.clustering.kmeans import import_faiss
from mmcoke.datasets.wrappers import with_pipeline
from mmcoke.engine.model_wrappers import unwrap
from mmcoke.features.extraction import gather_rows, own_features

from .labeler_hook import LabelerHook


class RefitHook(LabelerHook):
    """Labels all images by k-means of their features, and resets the classifier.

    Logs, after each clustering, under the method's name: ``nmi`` with the labels before it, the
    sizes ``min_size`` and ``max_size`` in samples, ``num_filled``, the clusters that came out empty
    and got part of another one, and ``seconds``.

    Args:
        pipeline: transforms without augmentation, for the features.
        batch_size, num_workers: for the features, per process; they do not change the results.
    """

    def __init__(self, pipeline: list[dict], batch_size: int = 128, num_workers: int = 0) -> None:
        self.pipeline, self.batch_size, self.num_workers = pipeline, batch_size, num_workers

    def before_run(self, runner: Runner) -> None:
        super().before_run(runner)
        import_faiss()  # missing, it would be missed only after all features are extracted

    def num_fits_due(self, runner: Runner) -> int:
        """Clusterings that an epoch which begins now must have behind it."""
        return 1

    def before_train(self, runner: Runner) -> None:
        """Cluster, unless a checkpoint brought labels that are recent enough."""
        (labeler,) = self._labelers(runner)
        if labeler.num_fits < self.num_fits_due(runner):
            self.refit(runner, runner.epoch)

    def refit(self, runner: Runner, epoch: int) -> None:
        """Extract the features of all images, cluster them, label all, reset the classifier.

        Args:
            runner: with the model and the data set.
            epoch: number of epochs that are finished, for the log.
        """
        start = time.perf_counter()
        model = unwrap(runner.model)
        labeler, name = model.labelers[0], type(model).__name__
        dataset = with_pipeline(runner.train_dataloader.dataset, Compose(self.pipeline))
        x_nD = own_features(
            model,
            dataset,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            progress=logged(runner, f'{name}: features'),
        )
        before_A = labeler.labels.label.clone()
        x_AD = gather_rows(x_nD, len(dataset), keep=is_main_process() or labeler.keeps_features)
        clusters = cluster_on_main(labeler, x_AD, len(dataset), logged(runner, f'{name}: k-means'))
        labeler.refit(x_nD if x_AD is None else x_AD, clusters)
        reset_classifier(model.head, labeler, runner)
        sizes = labeler.sizes()
        scalars = dict(
            min_size=sizes.min().item(),
            max_size=sizes.max().item(),
            num_filled=clusters.num_filled,
            seconds=round(time.perf_counter() - start, 1),
        )
        if labeler.num_fits > 1:
            after_A = labeler.labels.label
            nmi = normalized_mutual_info_score(before_A.cpu().numpy(), after_A.cpu().numpy())
            scalars = dict(nmi=round(float(nmi), 4)) | scalars
        self.log_epoch(runner, epoch, name.lower(), scalars)


def logged(runner: Runner, what: str, seconds: float = 30.0) -> Callable[[Iterable], Iterator]:
    """Progress of a loop with a length, as a line in the log every so many seconds."""

    def iterate(iterable: Iterable) -> Iterator:
        last = time.perf_counter()
        for done, item in enumerate(iterable):
            if time.perf_counter() - last > seconds:
                last = time.perf_counter()
                runner.logger.info(f'{what}: {done} of {len(iterable)}')
            yield item

    return iterate


def cluster_on_main(
    labeler: nn.Module, x_AD: Tensor | None, num_samples: int, progress: Callable
) -> KMeansResult:
    """Cluster in the main process, and tell the labels to all.

    Only labels and ``num_filled`` are the same everywhere; other processes get no centers.

    Raises:
        ValueError: on all processes, if the features cannot be clustered.
    """
    device = labeler.labels.label.device
    # First label, then number of filled clusters, or -1 for an error. NCCL has no 16 bits.
    message = torch.zeros(num_samples + 1, dtype=torch.int32, device=device)
    error, centers = None, None
    if is_main_process():
        try:
            clusters = labeler.cluster(x_AD, progress)
            centers, message[0] = clusters.centers, clusters.num_filled
            message[1:] = clusters.label
        except ValueError as caught:
            error, message[0] = caught, -1
    broadcast(message)
    if message[0] < 0:
        raise error or ValueError('The features cannot be clustered: see process 0.')
    return KMeansResult(message[1:].long(), centers, float('nan'), int(message[0]))


def reset_classifier(head: nn.Module, labeler: nn.Module, runner: Runner) -> None:
    """New weights for a classifier whose classes mean something else now; no momentum."""
    head.reset(labeler.seed + int(labeler.num_fits))
    for parameter in head.parameters():
        runner.optim_wrapper.optimizer.state.pop(parameter, None)
