"""The protocol of the comparison on CIFAR-10: all scores of one frozen network; docs/cifar10.md."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from mmcoke.clustering.precision import unit_rows
from mmcoke.datasets import InMemoryImages
from mmcoke.features.extraction import check_same_classes, resident_features
from mmcoke.features.store import full_precision

from .clustering import clustering_scores
from .clusterings import Clusters, best_kmeans
from .knn import knn_classify_many
from .linear_probe import linear_probe

SPLITS = ('train', 'test')
BOTH = 'train_and_test'
KS = (20, 200)
PROTOCOL = (
    'Frozen network, images without augmentation, labels in no clustering. Clusters against '
    'classes: accuracy under the best one-to-one matching (Hungarian method) on the split that is '
    'scored, NMI (arithmetic mean), ARI. head: clusters of the published centers, prototypes or '
    'classifier nearest to the projection, of the first head with as many clusters as classes. '
    'kmeans: of the L2-normalized pooled features, the least objective of 5 runs, fitted on the '
    'training split, and its centers assigned on the test split; train_and_test: fitted on both. '
    'knn: weighted, temperature 0.07, training split to test split. linear: logistic regression '
    'on standardized pooled features, training split to test split.'
)


def protocol_scores(
    network: nn.Module,
    train: InMemoryImages,
    test: InMemoryImages,
    clusters: Mapping[str, Clusters],
    *,
    ks: Sequence[int] = KS,
    linear: bool = True,
    batch_size: int = 1000,
    progress: Callable[[Iterable], Iterable] = iter,
) -> dict[str, dict]:
    """All scores of one network, on its device; each of 0 ... 1. See :data:`PROTOCOL`.

    Args:
        network: with ``data_preprocessor``, ``backbone`` and ``neck`` (or None).
        train, test: with labels, and a pipeline without augmentation; best on the same device.
        clusters: by name, as of :func:`~mmcoke.evaluation.clusterings.clusters_of`; the first one
            with as many clusters as there are classes counts.
        ks: numbers of neighbours, each at most that of the training images.
        linear: whether to fit the linear probe, which takes most of the time.
        batch_size: images per forward pass.
        progress: wraps the iterable of batches of each split.

    Returns:
        ``head`` and ``kmeans``: by split (``train``, ``test``, ``train_and_test``), ``acc``,
        ``nmi`` and ``ari``; ``head`` is None without such clusters; its ``name`` is that of the
        clusters. ``knn``: accuracy by k. ``linear``: accuracy, or None.

    Raises:
        ValueError: if images have no labels, there are fewer than k, or a feature is not finite.
    """
    check_same_classes(train, test)
    labels = [labels_of(dataset) for dataset in (train, test)]
    with full_precision():
        options = dict(batch_size=batch_size, progress=progress)
        found = [resident_features(network, dataset, **options) for dataset in (train, test)]
    (x_train, x_test), projected = ([part[i] for part in found] for i in range(2))
    units = [unit_rows(x) for x in (x_train, x_test)]
    device = units[0].device
    nearest = knn_classify_many(units[0], labels[0].to(device), units[1], ks=ks)
    return dict(
        head=head_scores(clusters, projected, labels),
        kmeans=kmeans_by_split(units, labels),
        knn={str(k): accuracy(label, labels[1]) for k, label in nearest.items()},
        linear=accuracy(linear_probe(x_train, labels[0], x_test), labels[1]) if linear else None,
    )


def labels_of(dataset: InMemoryImages) -> Tensor:
    """Classes, int64 (A,); ValueError if there are none."""
    if dataset.labels is None:
        raise ValueError(f'{dataset.source} has no labels (y), without which nothing is scored.')
    return torch.as_tensor(dataset.labels).long()


def accuracy(label: Tensor, target: Tensor) -> float:
    """Share of equal labels."""
    return (label.cpu() == target).double().mean().item()


def head_scores(
    clusters: Mapping[str, Clusters], projected: list[Tensor | None], labels: list[Tensor]
) -> dict | None:
    """Scores of the first head with as many clusters as classes; None if there is none.

    Args:
        clusters: see :func:`protocol_scores`.
        projected: of both splits (A, D), not normalized.
        labels: of both splits (A,).
    """
    num_classes = len(torch.cat(labels).unique())
    fitting = (item for item in clusters.items() if len(item[1].weight) == num_classes)
    name, head = next(fitting, (None, None))
    if head is None or projected[0] is None:
        return None
    return dict(name=name) | scores_by_split([head.assign(x) for x in projected], labels)


def scores_by_split(found: list[Tensor], labels: list[Tensor]) -> dict[str, dict[str, float]]:
    """Clustering scores of the training split, the test split, and of both as one set."""
    pairs = dict(zip((*SPLITS, BOTH), zip(both(found), both(labels), strict=True), strict=True))
    return {name: clustering_scores(label.cpu(), y) for name, (label, y) in pairs.items()}


def both(parts: list[Tensor]) -> list[Tensor]:
    """Two parts, and then both as one."""
    return [*parts, torch.cat(parts)]


def kmeans_by_split(units: list[Tensor], labels: list[Tensor]) -> dict[str, dict[str, float]]:
    """k-means of unit features of the training split, assigned on both; and of all as one set."""
    num_clusters = len(torch.cat(labels).unique())
    label, centers = best_kmeans(units[0], num_clusters)
    scores = dict(train=clustering_scores(label, labels[0]))
    assigned = torch.cdist(units[1], centers.to(units[1].device)).argmin(1)
    scores['test'] = clustering_scores(assigned.cpu(), labels[1])
    label, _ = best_kmeans(torch.cat(units), num_clusters)
    return scores | {BOTH: clustering_scores(label, torch.cat(labels))}
