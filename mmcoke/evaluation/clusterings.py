"""Clusterings compared with classes: k-means of features, and those that a checkpoint holds."""

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import DefaultScope
from torch import Tensor
from torch.utils.data import Dataset

from mmcoke.clustering import UNASSIGNED, kmeans
from mmcoke.clustering.kmeans import KMeansResult
from mmcoke.clustering.precision import unit_rows
from mmcoke.clustering.pseudo_labels import check_num_clusters
from mmcoke.clustering.settings import check_number
from mmcoke.datasets import CustomDataset
from mmcoke.datasets.identity import (
    KEYS,
    name_keys,
    records_of,
    rows_of_before,
    sample_keys,
    say_unknown,
)
from mmcoke.datasets.wrappers import without_repetition
from mmcoke.features.backbones import scope_of
from mmcoke.features.labelled import classes_by_folder, first_folders, has_splits
from mmcoke.files import read_checkpoint
from mmcoke.messages import shown
from mmcoke.registry import DATASETS
from mmcoke.weights.pretrained import weights_of

from .clustering import clustering_scores

TABLE = re.compile(r'(?:module\.)?(labelers\.\d+)\.labels\.(?:newest\.)?label')
"""Names of the tables of labels in a checkpoint, one per clustering."""

CENTERS = re.compile(
    r'(labelers\.\d+(?=\.(?:kmeans\.)?centers$)|.*prototypes(?:\.\d+)?(?=(?:\.weight)?$))'
)
"""Names of the centers of labelers, and of prototypes, in a checkpoint."""

CLASSIFIER = re.compile(r'(head\.(?:classifiers\.\d+\.)?fc_cls)\.weight')
"""Names of the weights of the classifiers of pseudo-labels in a checkpoint."""

SEEDING = 256
"""Samples per cluster among which k-means looks for its first centers; as many as faiss takes."""


def kmeans_scores(
    x: Tensor | np.ndarray,
    classes: Tensor,
    *,
    num_restarts: int = 5,
    progress: Callable[[Iterable], Iterable] = iter,
) -> dict[str, float]:
    """Cluster L2-normalized features into as many clusters as there are classes, and compare.

    Each run starts from :func:`spread_samples`: from any samples, k-means often ends with two
    classes in one cluster and another class in two.

    Args:
        x: features (A, D).
        classes: of the same samples, integers (A,).
        num_restarts: runs of k-means, with seeds 0, 1, ...; the one with the least objective
            counts. Chosen without the classes.
        progress: wraps the iterable of seeds, such as ``rich.progress.track``.

    Returns:
        ``num_clusters``, ``num_images``, and :func:`~mmcoke.evaluation.clustering_scores`.

    Raises:
        ValueError: if there are no restarts, or a feature is not finite.
    """
    x = unit_rows(torch.tensor(x) if isinstance(x, np.ndarray) else x)
    num_clusters = len(classes.unique())
    label, _ = best_kmeans(x, num_clusters, num_restarts=num_restarts, progress=progress)
    sizes = dict(num_clusters=num_clusters, num_images=len(classes))
    return sizes | clustering_scores(label, classes)


def best_kmeans(
    x: Tensor,
    num_clusters: int,
    *,
    num_restarts: int = 5,
    progress: Callable[[Iterable], Iterable] = iter,
) -> KMeansResult:
    """k-means from several starts, on the device of the features; see :func:`kmeans_scores`.

    Args:
        x: features (A, D), L2-normalized.
        num_clusters: K.
    """
    check_number('num_restarts', num_restarts, '[1, inf)', whole=True)
    runs = (
        kmeans(x, num_clusters, init=spread_samples(x, num_clusters, seed=seed))
        for seed in progress(range(num_restarts))
    )
    return min(runs, key=lambda result: result.objective)


class Clusters(NamedTuple):
    """What assigns any image to a cluster: that of the largest ``x . weight + bias``.

    Attributes:
        weight: centers, or the rows of a classifier (K, D).
        bias: (K,); None for centers of unit length, which are compared with unit vectors.
    """

    weight: Tensor
    bias: Tensor | None = None

    def assign(self, x_AD: Tensor) -> Tensor:
        """Cluster of each projection, int64 (A,), on its device.

        Args:
            x_AD: what the neck gives (A, D), not normalized; of nested clusterings, whose centers
                have fewer dimensions, the first ones count.
        """
        weight = self.weight.to(x_AD.device)
        if self.bias is None:
            return (unit_rows(x_AD[:, : weight.shape[1]]) @ unit_rows(weight).T).argmax(1)
        return (x_AD.float() @ weight.float().T + self.bias.to(x_AD)).argmax(1)


def clusters_of(checkpoint: str | Path) -> dict[str, Clusters]:
    """What a checkpoint assigns images to clusters by, by its name; empty if there is nothing.

    Published centers (``labelers.0``, ..., of CoKe, SeCu, DeepCluster-v2), prototypes (SwAV), or
    the classifiers of pseudo-labels (``head.fc_cls``; DeepCluster, ODC, SeLa). SelfLabel's learned
    classifier (``head``), not the centers of ``labelers.0``, which it only started from.

    Raises as :func:`~mmcoke.files.read_checkpoint`.
    """
    state = weights_of(read_checkpoint(checkpoint), checkpoint)
    return clusters_in({name.removeprefix('module.'): x for name, x in state.items()})


def clusters_in(state: Mapping[str, Tensor]) -> dict[str, Clusters]:
    """:func:`clusters_of`, of the state of a model."""
    if 'head.weight' in state:
        return dict(head=Clusters(state['head.weight']))
    found = {match[1]: Clusters(x) for name, x in state.items() if (match := CENTERS.match(name))}
    if found:
        return found
    classifiers = [match[1] for name in state if (match := CLASSIFIER.fullmatch(name))]
    return {name: Clusters(state[f'{name}.weight'], state[f'{name}.bias']) for name in classifiers}


def spread_samples(x: Tensor, num_clusters: int, *, seed: int = 0) -> Tensor:
    """Samples far from each other, to start k-means from: k-means++ (Arthur, Vassilvitskii, 2007).

    Args:
        x: (A, D); of more than :data:`SEEDING` per cluster, so many are looked at.
        num_clusters: K.

    Returns:
        (K, D).

    Raises:
        ValueError: if there are fewer samples than clusters, or one is not finite.
    """
    from sklearn.cluster import kmeans_plusplus

    check_num_clusters(num_clusters, len(x))
    random = np.random.default_rng(seed)
    some = random.permutation(len(x))[: SEEDING * num_clusters]
    chosen = x[torch.from_numpy(some).to(x.device)].cpu().numpy()
    centers, _ = kmeans_plusplus(chosen, num_clusters, random_state=seed)
    return torch.from_numpy(centers)


def own_scores(
    cfg: Config, checkpoint: str | Path, *, data_root: str | Path | None = None
) -> dict[str, dict[str, float]]:
    """Compare the pseudo-labels in a checkpoint with the classes of its training images.

    Without labels of the training images a warning says so, and the pseudo-labels are left out.

    Args:
        cfg: that the checkpoint was trained with; its training set tells the images' order.
        checkpoint: of mmcoke; others have no pseudo-labels.
        data_root: where that training set is now, in ``train``; or a folder per class, see
            :func:`folder_scores`.

    Returns:
        As :func:`table_scores`, by labeler (``labelers.0``, ...).
    """
    tables = label_tables(checkpoint)
    if not tables:
        return {}
    try:
        if data_root is not None and not has_splits(data_root):
            return folder_scores(cfg, checkpoint, tables, data_root)
        dataset = without_repetition(training_images(cfg, data_root))
        classes = classes_of(dataset)
        rows = rows_of_images(dataset, checkpoint)
        if rows is not None:
            classes = classes[rows >= 0]
            tables = {name: label[rows[rows >= 0]] for name, label in tables.items()}
        return {name: table_scores(label, classes) for name, label in tables.items()}
    except (OSError, ValueError) as error:
        print_log(
            f'The {len(tables)} clusterings in the checkpoint are left out. {error}',
            logger='current',
            level=logging.WARNING,
        )
        return {}


def folder_scores(
    cfg: Config, checkpoint: str | Path, tables: dict[str, Tensor], root: str | Path
) -> dict[str, dict[str, float]]:
    """Compare pseudo-labels with the classes that a folder gives the same images, by their names.

    The checkpoint's images need not all be in the folder, nor lie in folders alike; see
    :func:`rows_of_names`.

    Args:
        cfg: names the images where files have been moved since.
        checkpoint: of ``tables``.
        tables: as :func:`label_tables` gives them.
        root: a folder per class.

    Returns:
        As :func:`own_scores`, with ``num_without_class``: images with a pseudo-label that are not
        in the folder.

    Raises:
        ValueError: if the checkpoint does not say which images it has, or none is in the folder.
    """
    before = read_checkpoint(checkpoint).get(KEYS)
    if before is None:
        raise ValueError(f'{checkpoint} does not say which images it has. Train again to compare.')
    with DefaultScope.overwrite_default_scope('mmcoke'):
        images = CustomDataset(data_root=str(root), pipeline=[])
    names = [os.path.relpath(record['img_path'], root) for record in records_of(images)]
    rows = rows_of_names(names, before.numpy(), lambda: named_rows(cfg, before.numpy()))
    classes = np.full(len(before), -1)
    classes[rows[rows >= 0]] = classes_of(images)[rows >= 0]
    if (classes < 0).all():
        raise ValueError(
            f'None of the {len(names)} images in {shown(root)} has the name of one of the '
            f'{len(before)} images that {checkpoint} was trained on.'
        )
    without = {
        name: (label.numpy() != UNASSIGNED) & (classes < 0) for name, label in tables.items()
    }
    return {
        name: table_scores(label, classes) | dict(num_without_class=int(without[name].sum()))
        for name, label in tables.items()
    }


def rows_of_names(
    names: Sequence[str], before: np.ndarray, known: Callable[[], dict[str, int]]
) -> np.ndarray:
    """Where images in class folders are in the tables of a checkpoint, by the names of the files.

    In this order: the path below the folder is the one of training; that below the class folder is;
    the file alone has the name of one image of training, and one of the folder. A name that two
    images have says nothing.

    Args:
        names: paths below the folder (B,).
        before: keys of the checkpoint's images, see :func:`~mmcoke.datasets.identity.sample_keys`.
        known: gives rows by the name of the file alone, for names that one image has; called if
            some are still missing.

    Returns:
        int64 (B,), -1 for images that are not in it.
    """
    rows = rows_of_before(name_keys(names), before)
    below = rows_of_before(name_keys([name.split('/', 1)[-1] for name in names]), before)
    rows = np.where(rows < 0, once(below), rows)
    if (rows < 0).any():
        alone = known()
        found = np.array([alone.get(name.rsplit('/', 1)[-1], -1) for name in names])
        rows = np.where(rows < 0, once(found), rows)
    return rows


def once(rows: np.ndarray) -> np.ndarray:
    """Rows that occur once; -1 for the others."""
    values, inverse, count = np.unique(rows, return_inverse=True, return_counts=True)
    return np.where(count[inverse] == 1, values[inverse], -1)


def named_rows(cfg: Config, before: np.ndarray) -> dict[str, int]:
    """Row in the tables of a checkpoint by the name of a file of the config's training set.

    Names that several images have are left out; empty if the training set is no longer there.
    """
    try:
        dataset = without_repetition(training_images(cfg))
        keys = sample_keys(dataset)
        names = [Path(r['img_path']).name for r in map(dataset.get_data_info, range(len(dataset)))]
    except (OSError, ValueError, KeyError):
        return {}
    if keys is None:
        return {}
    count = Counter(names)
    rows = rows_of_before(keys, before)
    return {n: int(row) for n, row in zip(names, rows, strict=True) if count[n] == 1 and row >= 0}


def rows_of_images(dataset: Dataset, checkpoint: str | Path) -> np.ndarray | None:
    """Where images are in the label tables of a checkpoint: by name.

    Returns:
        int64 (A,), -1 for images that are not in it, of which a warning tells; None, with another
        warning, if checkpoint or data set do not say which images they have.

    Raises:
        ValueError: if fewer than half of the checkpoint's images are there.
    """
    before, keys = read_checkpoint(checkpoint).get(KEYS), sample_keys(dataset)
    if before is None or keys is None:
        say_unknown(checkpoint if before is None else type(dataset).__name__)
        return None
    rows = rows_of_before(keys, before.numpy())
    kept = int((rows >= 0).sum())
    if kept < len(before) / 2:
        raise ValueError(
            f'{checkpoint} is of {len(before)} images, and only {kept} of them are among the '
            f'{len(rows)} training images. Name those it was trained on: --data-root, or '
            '--cfg-options train_dataloader.dataset.data_root=...'
        )
    if kept < max(len(before), len(rows)):
        print_log(
            f'Compared are the {kept} of {len(before)} images of {checkpoint} that are among the '
            f'{len(rows)} training images, by name.',
            logger='current',
            level=logging.WARNING,
        )
    return rows


def label_tables(checkpoint: str | Path) -> dict[str, Tensor]:
    """The newest pseudo-label of each training image (A,), by labeler; empty if there is none.

    Raises as :func:`~mmcoke.files.read_checkpoint`.
    """
    return tables_in(weights_of(read_checkpoint(checkpoint), checkpoint))


def tables_in(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """:func:`label_tables`, of the state of a model."""
    return {match[1]: x for name, x in state.items() if (match := TABLE.fullmatch(name))}


def table_scores(label: Tensor, classes: np.ndarray) -> dict[str, float]:
    """Scores of one label table, of the images that have both a pseudo-label and a class.

    Args:
        label: of all training images (A,).
        classes: of the same images, in the same order (A,); -1 for none.

    Returns:
        ``num_clusters`` in use, ``num_images`` with label and class, and
        :func:`~mmcoke.evaluation.clustering_scores`.

    Raises:
        ValueError: if the numbers of images differ, or no image has a label.
    """
    label = label.numpy().astype(np.int64)
    if len(label) == len(classes):
        label = np.where(classes < 0, UNASSIGNED, label)
    seen = label != UNASSIGNED
    if len(label) != len(classes) or not seen.any():
        raise ValueError(
            f'They are of {len(label)} images, {seen.sum()} of them with a pseudo-label, but there '
            f'are {len(classes)} training images. Name those it was trained on: --data-root, or '
            '--cfg-options train_dataloader.dataset.data_root=...'
        )
    sizes = dict(num_clusters=len(np.unique(label[seen])), num_images=int(seen.sum()))
    return sizes | clustering_scores(label[seen], classes[seen])


def training_images(cfg: Config, data_root: str | Path | None = None) -> Dataset:
    """The training set of a config, in the order of its ``sample_idx``; see :func:`own_scores`."""
    if not cfg.get('train_dataloader'):
        raise ValueError(f'{cfg.filename} has no train_dataloader.')
    dataset = dict(cfg.train_dataloader.dataset)
    if data_root is not None and 'data_root' in dataset:
        dataset |= dict(data_root=str(data_root), data_prefix='train')
    with scope_of(cfg):
        return DATASETS.build(dataset)


def classes_of(dataset: Dataset) -> np.ndarray:
    """Class of each image of a training set, int64 (A,), also where it was read without labels.

    There, the first folder below the data set's own names the class, as in ImageNet; -1 for images
    beside these folders. (Another data set, with labels, may have the same images in another
    order.)

    Raises:
        ValueError: if there are neither labels nor such folders.
    """
    records = [dataset.get_data_info(i) for i in range(len(dataset))]
    if all('gt_label' in record for record in records):
        return np.array([record['gt_label'] for record in records], np.int64)
    classes = classes_by_folder(dict(train=first_folders(dataset)))['train']
    if (classes < 0).all():
        raise ValueError('The training images have neither labels nor a folder per class.')
    return classes
