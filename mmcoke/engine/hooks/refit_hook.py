"""Clusters the features of all images, for the hooks of DeepCluster, ODC and SeLa."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.dataset import Compose
from mmengine.dist import broadcast, is_main_process
from mmengine.runner import Runner
from torch import Tensor, nn

from mmcoke.clustering import KMeansResult
from mmcoke.clustering.settings import check_number
from mmcoke.datasets.loading import add_to_listing, plain_pipeline, skips_unreadable
from mmcoke.datasets.wrappers import with_pipelines, without_repetition
from mmcoke.engine.main_process import run_on_main
from mmcoke.engine.model_wrappers import unwrap
from mmcoke.evaluation.clustering import contingency, mutual_information
from mmcoke.features.extraction import gather_rows, own_features
from mmcoke.features.unreadable import UNREADABLE, Unreadable, check_readable

from .labeler_hook import LabelerHook


class RefitHook(LabelerHook):
    """Labels all images by clustering their features, and resets the classifier.

    Logs, after each clustering, under the method's name: ``nmi`` with the labels before it, the
    sizes ``min_size`` and ``max_size`` in samples, ``num_filled``, the clusters that came out empty
    and got part of another one, and ``seconds``.

    Args:
        pipeline: transforms without augmentation, for the features. Images are loaded by the
            training set's own transforms.
        batch_size, num_workers: for the features, per process; they do not change the results.

    Raises:
        ValueError: if one of these is out of its range.
    """

    # DeepCluster's labels do not change within an epoch, ODC's are meant to change at each visit.
    may_repeat = True

    def __init__(self, pipeline: list[dict], batch_size: int = 128, num_workers: int = 0) -> None:
        check_number('batch_size', batch_size, '[1, inf)', whole=True)
        check_number('num_workers', num_workers, '[0, inf)', whole=True)
        self.pipeline, self.batch_size, self.num_workers = pipeline, batch_size, num_workers

    def num_fits_due(self, runner: Runner) -> int:
        """Clusterings that an epoch which begins now must have behind it."""
        return 1

    def before_train(self, runner: Runner) -> None:
        """Cluster, unless a checkpoint brought labels that are recent enough."""
        labelers = self._labelers(runner)
        if labelers[0].num_fits < self.num_fits_due(runner):
            self.refit(runner, runner.epoch)
        else:
            for labeler in labelers:
                self.recount(labeler)

    def recount(self, labeler: nn.Module) -> None:
        """Let what follows from the labels follow those that a checkpoint brought.

        Images may be gone since; new ones have no label yet.
        """
        raise NotImplementedError

    def cluster_options(self, model: nn.Module, number: int) -> dict[str, Tensor]:
        """What ``cluster`` of a labeler takes besides the features."""
        return {}

    def after_refit(self, runner: Runner) -> None:
        """What the new labels ask for: a new classifier."""
        model = unwrap(runner.model)
        reset_classifier(model.head, model.labelers[0], runner)

    def curve_names(self, model: nn.Module) -> list[str]:
        """Under which the numbers of each labeler are logged."""
        return [type(model).__name__.lower()]

    def refit(self, runner: Runner, epoch: int) -> None:
        """Extract the features of all images, cluster them, label all, reset the classifier.

        Args:
            runner: with the model and the data set.
            epoch: number of epochs that are finished, for the log.
        """
        start = time.perf_counter()
        model = unwrap(runner.model)
        x_nD, x_AD, left_out = self.features(runner)
        # Rows of images that were left out are NaN until here, and so in no cluster.
        found = []
        for number, labeler in enumerate(model.labelers):
            progress = logged(runner, f'{type(model).__name__}: clustering')
            options = self.cluster_options(model, number)
            num_samples = labeler.labels.num_samples
            found.append(cluster_on_main(labeler, x_AD, num_samples, progress, left_out, **options))
        x = x_nD if x_AD is None else x_AD
        x = x.nan_to_num_(nan=0.0) if left_out else x
        for name, labeler, clusters in zip(
            self.curve_names(model), model.labelers, found, strict=True
        ):
            before_A = labeler.labels.label.cpu().numpy().copy() if is_main_process() else None
            labeler.refit(x, clusters, left_out=left_out)
            scalars = fit_scalars(labeler, before_A, clusters)
            self.log_epoch(
                runner, epoch, name, scalars | dict(seconds=round(time.perf_counter() - start, 1))
            )
        self.after_refit(runner)

    def features(self, runner: Runner) -> tuple[Tensor, Tensor | None, list[int]]:
        """Features of all images, without augmentation.

        Returns:
            Those of the own images (n, D); those of all (A, D), where they are needed; and the rows
            of images that cannot be read, whose features are NaN.
        """
        keep = is_main_process() or unwrap(runner.model).labelers[0].keeps_features
        options = dict(batch_size=self.batch_size, num_workers=self.num_workers, keep=keep)
        return features_of_all(runner, self.pipeline, **options)


def features_of_all(
    runner: Runner, pipeline: list[dict], *, batch_size: int, num_workers: int, keep: bool
) -> tuple[Tensor, Tensor | None, list[int]]:
    """Projections of all training images, network in evaluation mode; see RefitHook.features.

    Args:
        runner: with the model and the data set.
        pipeline, batch_size, num_workers: see :class:`RefitHook`.
        keep: whether this process wants those of all images.
    """
    model = unwrap(runner.model)
    dataset = without_repetition(runner.train_dataloader.dataset)
    notes, skip = [], skips_unreadable(dataset)
    transforms = Compose(pipeline).transforms
    dataset = with_pipelines(dataset, lambda part: plain_pipeline(part, transforms))
    x_nD = own_features(
        model,
        dataset,
        batch_size=batch_size,
        num_workers=num_workers,
        progress=logged(runner, f'{type(model).__name__}: features'),
        notes=notes,
    )
    left_out = left_out_rows(notes, skip, len(dataset), runner)
    return x_nD, gather_rows(x_nD, len(dataset), keep=keep), left_out


def fit_scalars(
    labeler: nn.Module, before_A: np.ndarray | None, clusters: KMeansResult
) -> dict[str, float]:
    """What a clustering is like; compared with the labels before it, in the main process."""
    sizes = labeler.sizes()
    scalars = dict(
        min_size=sizes.min().item(),
        max_size=sizes.max().item(),
        num_filled=clusters.num_filled,
    )
    if labeler.num_fits > 1 and before_A is not None:  # the others log nothing
        nmi = mutual_information(contingency(before_A, labeler.labels.label.cpu().numpy()))
        scalars = dict(nmi=round(nmi, 4)) | scalars
    return scalars


def left_out_rows(
    notes: list[Unreadable], skip: bool, num_images: int, runner: Runner
) -> list[int]:
    """Rows of the images that cannot be read; the main process lists them.

    Raises:
        UnreadableImageError: if there are any, and they are not skipped.
    """
    listing = Path(runner.work_dir) / UNREADABLE
    if notes and is_main_process():
        add_to_listing(listing, [(note.name, note.reason) for note in notes])
        runner.logger.warning(f'{len(notes):,} images cannot be read and have no label: {listing}')
    if not skip:
        where = f'All of them: {listing}. '
        check_readable(notes, num_images, where=where, skip='tools/train.py --skip-unreadable')
    return [note.row for note in notes]


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
    labeler: nn.Module,
    x_AD: Tensor | None,
    num_samples: int,
    progress: Callable,
    left_out: Sequence[int] = (),
    **options: Tensor,
) -> KMeansResult:
    """Cluster in the main process, and tell all; rows that are left out are in cluster 0.

    The others wait as in :func:`run_on_main`, so that it may take as long as it needs. ``options``
    are of ``labeler.cluster``.

    Raises:
        ValueError: on all processes, if the features cannot be clustered.
        RuntimeError: on the others, if the main process fails otherwise, or is gone.
    """
    kept_A = torch.ones(num_samples, dtype=torch.bool)
    kept_A[list(left_out)] = False
    found = run_on_main(
        lambda: labeler.cluster(x_AD[kept_A] if left_out else x_AD, progress, **options)
    )
    device = next(labeler.buffers()).device
    found = told_to_all(found, int(kept_A.sum()), device)
    label_A = found.label.new_zeros(num_samples)
    label_A[kept_A.to(device)] = found.label
    return KMeansResult(label_A, found.centers, found.objective, found.num_filled)


def told_to_all(found: KMeansResult | None, num_samples: int, device: torch.device) -> KMeansResult:
    """What the main process has found, on all processes and their device; no objective.

    Args:
        found: there; None elsewhere.
        num_samples: of its labels.
        device: on which the processes communicate.
    """
    # Filled clusters, K and D, then the labels. NCCL has no 16 bits.
    message = torch.zeros(num_samples + 3, dtype=torch.int32, device=device)
    if found is not None:
        message[:3] = message.new_tensor([found.num_filled, *found.centers.shape])
        message[3:] = found.label.to(message)
    broadcast(message)
    num_filled, num_clusters, dim = message[:3].tolist()
    centers_KD = torch.zeros(num_clusters, dim, device=device)
    if found is not None:
        centers_KD.copy_(found.centers)
    broadcast(centers_KD)
    return KMeansResult(message[3:].long(), centers_KD, float('nan'), num_filled)


def reset_classifier(head: nn.Module, labeler: nn.Module, runner: Runner) -> None:
    """New weights for a classifier whose classes mean something else now; no momentum."""
    head.reset(labeler.seed + int(labeler.num_fits))
    for parameter in head.parameters():
        runner.optim_wrapper.optimizer.state.pop(parameter, None)
