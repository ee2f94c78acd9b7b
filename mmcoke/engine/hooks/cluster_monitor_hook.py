"""Says when a clustering is looked at, and where the numbers go."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import Dataset

from mmcoke.clustering import UNASSIGNED
from mmcoke.clustering.diagnostics import (
    agreement,
    dual_statistics,
    floats,
    pair_counts,
    similarities,
    size_counts,
    size_statistics,
    spread,
    violation,
)
from mmcoke.datasets.wrappers import without_repetition
from mmcoke.engine.loops import taken_up
from mmcoke.engine.model_wrappers import unwrap
from mmcoke.evaluation.clustering import (
    clustering_scores,
    contingency,
    matched_share,
    mutual_information,
)
from mmcoke.evaluation.clusterings import clusters_in
from mmcoke.files import write_text
from mmcoke.registry import HOOKS
from mmcoke.reporting.runs import STATS

from .coke_hook import curve_names

NUM_FEATURES = 1024
"""Images, the last of an epoch, whose features are looked at."""


@HOOKS.register_module()
class ClusterMonitorHook(Hook):
    """Measures each clustering after each epoch: is it even, does it settle, is it spread?

    On in every recipe. Nothing in a step waits for a GPU: of the last iterations of an epoch the
    features are kept, and all numbers are read at its end. The main process measures; features are
    those of its own images. It goes behind the method's hook, so labels, duals and centers are
    those that the next epoch starts from.

    For each clustering (K clusters), as ``clusters/METHOD/K/...`` to the visualizers, and with all
    of an epoch as one line each of ``cluster_stats.jsonl`` in the work dir:

    - :func:`~mmcoke.clustering.diagnostics.size_statistics`, of the labels;
    - ``changed``, the share of labels that are others than after the epoch before, and ``nmi``
      with those;
    - where there are duals, :func:`~mmcoke.clustering.diagnostics.dual_statistics`;
    - where there are centers, :func:`~mmcoke.clustering.diagnostics.similarities`;
    - :func:`~mmcoke.clustering.diagnostics.spread` of the features;
    - where the data set has labels, which training never sees, ``class_acc``, ``class_nmi`` and
      ``class_ari``: see :func:`~mmcoke.evaluation.clustering_scores`;
    - to the lines alone, ``loss``, the mean over the epoch, and ``lr`` at its end.
    """

    priority = 'BELOW_NORMAL'

    def before_train(self, runner: Runner) -> None:
        self._before = tables(labelers_of(runner))
        self._noted = False
        self._classes: Tensor | None = None
        if is_main_process():
            forget_epochs(Path(runner.work_dir) / STATS, after=runner.epoch)

    def before_train_epoch(self, runner: Runner) -> None:
        labelers, known = labelers_of(runner), not taken_up(runner)
        # Of an epoch that an earlier run began, duals and labels at its start are not known.
        self._streams = [Stream(labeler, known) for labeler in labelers]
        if not known:
            self._before = [torch.full_like(label_A, UNASSIGNED) for label_A in self._before]
        self._seen: list[tuple[Tensor, Tensor]] = []

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Keep what the last iterations saw; a CUDA graph overwrites it with each replay."""
        seen = getattr(unwrap(runner.model), 'seen', None)
        num_left = len(runner.train_dataloader) - 1 - batch_idx
        if seen is not None and is_main_process() and num_left * len(seen[1]) < NUM_FEATURES:
            self._seen.append(tuple(x.clone() for x in seen))
        if not num_left:
            for stream in self._streams:
                stream.end()

    def after_train_epoch(self, runner: Runner) -> None:
        if not is_main_process():
            return
        model, dataset = unwrap(runner.model), runner.train_dataloader.dataset
        self._note_what_is_missing(runner)
        if not labelers_of(runner):
            return
        after, centers = tables(model.labelers), centers_of(model)
        features = {}
        if self._seen:  # not where a run is resumed behind the last iteration of an epoch
            x_ND, idx_N = (torch.cat(parts) for parts in zip(*self._seen, strict=True))
            features = spread(x_ND)
        training = dict(loss=cluster_loss(runner), lr=learning_rate(runner))
        names, lines = curve_names(model.labelers, type(model).__name__.lower()), []
        for h, (name, labeler) in enumerate(zip(names, model.labelers, strict=True)):
            size_K = labeler.sizes()
            found = size_statistics(size_K, getattr(labeler, 'lower_bound', 0.0))
            found |= self._streams[h].numbers(len(runner.train_dataloader))
            found |= features
            if features and (centers_KD := centers[h]) is not None:
                # Of nested clusterings, the first dimensions.
                own = x_ND[:, : centers_KD.shape[1]], after[h][idx_N], centers_KD
                found |= similarities(*own)
            numbers = floats(found) | movement(self._before[h], after[h], len(size_K))
            numbers |= self.class_scores(dataset, after[h])
            bound = getattr(labeler, 'lower_bound', 0.0) * float(size_K.sum())
            more = dict(size_bound=bound, size_counts=size_counts(size_K))
            lines.append(dict(epoch=runner.epoch + 1, clustering=name) | numbers | training | more)
            say(runner, name, len(size_K), numbers)
        self._before = after
        add_lines(Path(runner.work_dir) / STATS, lines)

    def _note_what_is_missing(self, runner: Runner) -> None:
        """Once, of an algorithm that does not tell all that a hook can look at."""
        model, missing = unwrap(runner.model), None
        if not labelers_of(runner):
            missing = 'labelers, so no clustering'
        elif getattr(model, 'seen', None) is None and not taken_up(runner):
            missing = 'features of its last step in `seen`, so none'
        if missing and not self._noted:
            runner.logger.info(f'{type(model).__name__} has no {missing} is measured.')
            self._noted = True

    def class_scores(self, dataset: Dataset, label_A: Tensor) -> dict[str, float]:
        """Agreement with the labels of the data set, of the images that have a label in both."""
        if self._classes is None:
            self._classes = true_classes(dataset).to(label_A.device)
        if len(self._classes) != len(label_A):
            return {}
        scores = class_scores(self._classes, label_A)
        return {f'class_{name}': score for name, score in scores.items()}


# ---- what is looked at


def labelers_of(runner: Runner) -> list[nn.Module]:
    """Of each clustering; none of a model that has no labelers."""
    return list(getattr(unwrap(runner.model), 'labelers', ()))


class Stream:
    """Duals and sizes of a clustering over one epoch: before a hook makes other labels at its end.

    Args:
        labeler: at the start of the epoch; without duals there is nothing to see.
        known: whether this is the start.
    """

    def __init__(self, labeler: nn.Module, known: bool) -> None:
        self.labeler = labeler
        dual_K = self.dual()
        self.before_K = dual_K.clone() if known and dual_K is not None else None
        self.end()

    def dual(self) -> Tensor | None:
        """The duals (K,), if there are any."""
        return getattr(getattr(self.labeler, 'kmeans', self.labeler), 'dual', None)

    def end(self) -> None:
        """After the last step of the epoch, as far as it has come."""
        if (dual_K := self.dual()) is not None:
            self.after_K, self.size_K = dual_K.clone(), self.labeler.sizes()

    def numbers(self, num_steps: int) -> dict[str, Tensor]:
        """Of the duals, and what was missing to the lower bound."""
        if self.dual() is None:
            return {}
        found = dual_statistics(self.after_K, self.before_K, self.labeler.dual_lr, num_steps)
        return found | dict(violation=violation(self.size_K, self.labeler.lower_bound))


def tables(labelers: Iterable[nn.Module]) -> list[Tensor]:
    """The newest label of each image (A,), a copy, of each clustering."""
    return [getattr(one, 'newest', one.labels).label.clone() for one in labelers]


def centers_of(model: nn.Module) -> list[Tensor | None]:
    """The centers (K, D) of each clustering; None where it has none, but a classifier."""
    found = [c.weight for c in clusters_in(model.state_dict()).values() if c.bias is None]
    if len(found) == len(model.labelers):
        return found
    return [getattr(labeler, 'centroids', None) for labeler in model.labelers]


def true_classes(dataset: Dataset) -> Tensor:
    """Class of each image, int64 (A,), -1 where it has none; empty where none has."""
    dataset = without_repetition(dataset)
    first = dataset.get_data_info(0) if hasattr(dataset, 'get_data_info') else {}
    if not np.issubdtype(np.asarray(first.get('gt_label', 'none')).dtype, np.integer):
        return torch.zeros(0, dtype=torch.int64)
    records = (dataset.get_data_info(row) for row in range(len(dataset)))
    return torch.tensor([int(np.ravel(record.get('gt_label', -1))[0]) for record in records])


MAX_PAIRS = 1 << 22
"""Pairs of labels that are counted on the device, one number each; of more, those that occur."""


def movement(before_A: Tensor, after_A: Tensor, num_clusters: int) -> dict[str, float]:
    """How labels differ from those of the epoch before, of the images that had one."""
    if num_clusters**2 <= MAX_PAIRS:
        count_KK = pair_counts(before_A, after_A, num_clusters, num_clusters)
        same = count_KK.trace() / count_KK.sum()
        found = floats(dict(changed=1 - same, nmi=agreement(count_KK)['nmi']))
        return {} if math.isnan(found['changed']) else found  # 0 / 0: no image had one
    before, after = both(before_A, after_A)
    if not len(after):
        return {}
    changed = float((before != after).mean())
    return dict(changed=changed, nmi=mutual_information(contingency(before, after)))


def class_scores(class_A: Tensor, label_A: Tensor) -> dict[str, float]:
    """As :func:`~mmcoke.evaluation.clustering_scores`, of the images that have both."""
    num_classes, num_clusters = (int(x.max()) + 1 for x in (class_A, label_A))
    if num_classes * num_clusters > MAX_PAIRS:
        classes, label = both(class_A, label_A)
        return clustering_scores(label, classes)
    count_CK = pair_counts(class_A, label_A, num_classes, num_clusters)
    if not num_clusters or not count_CK.any():
        return {}
    return dict(acc=matched_share(count_CK.cpu().numpy())) | floats(agreement(count_CK))


def both(first_A: Tensor, second_A: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Labels of the images that have both."""
    has_both = (first_A != UNASSIGNED) & (second_A != UNASSIGNED)
    return first_A[has_both].cpu().numpy(), second_A[has_both].cpu().numpy()


def cluster_loss(runner: Runner) -> float:
    """Mean of the loss over the epoch; where others are added, of the part about clusters."""
    scalars = runner.message_hub.log_scalars
    name = 'train/clusters' if 'train/clusters' in scalars else 'train/loss'
    return float(scalars[name].mean(len(runner.train_dataloader)))


def learning_rate(runner: Runner) -> float:
    """The highest of the optimizer's, at the end of the epoch."""
    return max(rate for rates in runner.optim_wrapper.get_lr().values() for rate in rates)


# ---- where it goes


def say(runner: Runner, name: str, num_clusters: int, numbers: Mapping[str, float]) -> None:
    """The numbers as curves; those that matter most as a line of the log."""
    curves = {f'clusters/{name}/{key}': value for key, value in numbers.items()}
    runner.visualizer.add_scalars(curves, step=runner.epoch + 1)
    parts = [
        f'perplexity {numbers["perplexity"]:.1f} of {num_clusters}',
        f'{numbers["num_empty"]:.0f} empty',
    ]
    if 'violation_bound' in numbers:
        most = numbers['violation_bound']
        parts.append(f'missing to the bound {numbers["violation"]:.2%} (at most {most:.2%})')
    words = dict(
        nmi='NMI with the epoch before',
        similarity='similarity',
        margin='margin',
        effective_rank='rank of the features',
        class_nmi='NMI with the classes',
    )
    parts += [f'{word} {numbers[key]:.3g}' for key, word in words.items() if key in numbers]
    runner.logger.info(f'Epoch [{runner.epoch + 1}] clusters {name}: {", ".join(parts)}')


def add_lines(path: Path, lines: list[dict]) -> None:
    """Append to a file of JSON lines."""
    with path.open('a', encoding='utf-8') as file:
        file.writelines(json.dumps(line) + '\n' for line in lines)


def forget_epochs(path: Path, after: int) -> None:
    """Remove lines of epochs that a resumed run will do again, and one that was cut off."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding='utf-8').splitlines():
        try:
            epoch = json.loads(line)['epoch']
        except (ValueError, KeyError, TypeError):
            continue
        if epoch <= after:
            kept.append(line + '\n')
    write_text(path, ''.join(kept))
