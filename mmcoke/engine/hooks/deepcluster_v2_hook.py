"""Says when DeepCluster-v2 clusters."""

import time
from collections.abc import Sequence

import torch
from mmengine.dist import is_main_process
from mmengine.runner import Runner
from torch import Tensor

from mmcoke.clustering import DeepClusterV2Labeler, KMeansResult
from mmcoke.engine.main_process import run_on_main
from mmcoke.engine.model_wrappers import unwrap
from mmcoke.evaluation.clustering import contingency, mutual_information
from mmcoke.registry import HOOKS

from .coke_hook import curve_names
from .labeler_hook import LabelerHook, mean_loss
from .refit_hook import logged, told_to_all


@HOOKS.register_module()
class DeepClusterV2Hook(LabelerHook):
    """Makes the labelers for the training set, and clusters their memory when an epoch ends.

    k-means runs in the main process; the others wait, however long it takes. Runs before
    ``CheckpointHook``, so checkpoints hold the labels and centers of the epoch to come. Logs, after
    each epoch, ``deepclusterv2/seconds`` of the clustering, and for each one (K clusters)
    ``deepclusterv2/K/nmi`` with the labels before it, if there were any, ``min_size`` and
    ``max_size`` in samples, and ``num_filled``, the clusters that came out empty and got part of
    another one.
    """

    # Labels do not change within an epoch.
    may_repeat = True

    def before_train_epoch(self, runner: Runner) -> None:
        unwrap(runner.model).labelers.set_epoch(runner.epoch)

    def after_train_epoch(self, runner: Runner) -> None:
        start, labelers = time.perf_counter(), unwrap(runner.model).labelers
        before = [head.labels.label.clone() for head in labelers]
        progress = logged(runner, 'DeepClusterV2: k-means')
        found = run_on_main(lambda: labelers.cluster(progress))
        clusters = from_main(labelers, found)
        labelers.refit(clusters)
        seconds = round(time.perf_counter() - start, 1)
        curves = {'deepclusterv2/loss': mean_loss(runner), 'deepclusterv2/seconds': seconds}
        runner.visualizer.add_scalars(curves, step=runner.epoch + 1)
        if not is_main_process():  # the others log nothing
            return
        for name, *parts in zip(
            curve_names(labelers, 'deepclusterv2'), before, clusters, strict=True
        ):
            self.log_epoch(runner, runner.epoch + 1, name, epoch_scalars(*parts))


def from_main(
    labelers: DeepClusterV2Labeler, found: Sequence[KMeansResult] | None
) -> list[KMeansResult]:
    """What the main process has found, on all processes.

    Args:
        labelers: of the clusterings.
        found: there, one for each; None elsewhere.
    """
    found = found or [None] * len(labelers)
    return [
        told_to_all(clusters, len(head.labels.label), head.centers.device)
        for clusters, head in zip(found, labelers, strict=True)
    ]


def epoch_scalars(before_A: Tensor, clusters: KMeansResult) -> dict[str, float]:
    """What a clustering looks like: agreement with the one before, sizes in samples."""
    label_A = clusters.label
    sizes = torch.bincount(label_A[label_A >= 0], minlength=len(clusters.centers))
    nmi = {}
    if (before_A >= 0).any():
        counts = contingency(before_A.cpu().numpy(), label_A.cpu().numpy())
        nmi['nmi'] = round(mutual_information(counts), 4)
    return nmi | dict(
        min_size=sizes.min().item(),
        max_size=sizes.max().item(),
        num_filled=clusters.num_filled,
    )
