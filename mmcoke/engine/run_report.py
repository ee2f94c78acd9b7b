"""What a run's last checkpoint and data set have for its page, and the page itself."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.data import Dataset

from mmcoke.datasets.identity import KEYS, leaves_of, records_of, rows_of_before, sample_keys
from mmcoke.datasets.wrappers import without_repetition
from mmcoke.evaluation.clusterings import Clusters, clusters_in, tables_in, training_images
from mmcoke.features.backbones import FrozenNetwork, load_frozen
from mmcoke.features.extraction import run as run_batches
from mmcoke.features.extraction import view_of
from mmcoke.features.plain_images import plain_images
from mmcoke.features.store import feature_of, full_precision, maps_of
from mmcoke.files import read_checkpoint
from mmcoke.messages import shown
from mmcoke.reporting.clusters import Choice, Classes, Head, LookedAt, rows_to_look_at
from mmcoke.reporting.report import NO_EXTRAS, Extras, write_report
from mmcoke.reporting.runs import Run, config_of, read_runs
from mmcoke.weights.pretrained import weights_of

from .checkpoint import last_checkpoint, saved_checkpoints

SECONDS = 30.0
"""For looking at images, of all runs together."""

IN_TRAINING = 10.0
"""The same, at the end of a training."""

BATCH_SIZE = 16
"""Small, for the time that the last one takes is beyond the limit."""


def write_run_report(
    path: str | Path,
    folders: Sequence[str | Path],
    *,
    seconds: float = SECONDS,
    thorough: bool = True,
    dataset: Dataset | None = None,
    extras: Extras = NO_EXTRAS,
) -> list[str]:
    """Write a page about runs, with images of their clusters where they can be seen.

    Images go through the network of the last checkpoint, without augmentation, on a GPU if there
    is one: those that the page shows, until the time is up.

    Args:
        path: the HTML file.
        folders: work dirs.
        seconds: for looking at images.
        dataset: of a single run, if it is there already.
        thorough, extras: see :func:`~mmcoke.reporting.report.write_report`.

    Returns:
        What is missing on the page, a line each.

    Raises:
        FileNotFoundError: if no run has logged in one of the folders.
    """
    runs, looked_at, notes = read_runs(folders), [], []
    for run in runs:
        try:
            looked_at.append(look_at(run, seconds / len(runs), dataset))
        # A run has any data set and network; whatever is wrong with them, its curves are shown.
        except Exception as error:
            looked_at.append(None)
            notes.append(missing(run, error, several=len(runs) > 1))
    extras = extras._replace(notes=[*extras.notes, *notes])
    write_report(path, runs, looked_at=looked_at, extras=extras, thorough=thorough)
    return notes


def missing(run: Run, error: Exception, *, several: bool) -> str:
    """A line about images that cannot be shown."""
    reason = ' '.join(str(error).split())
    if not reason or not isinstance(error, (OSError, ValueError)):
        reason = f'{type(error).__name__}: {reason}'
    where = f'{run.name}: ' if several else ''
    return f'{where}Clusters, neighbours and features are left out. {shown(reason)}'


def look_at(run: Run, seconds: float, dataset: Dataset | None = None) -> LookedAt:
    """Images of a run, with their features by the network of its last checkpoint.

    Args:
        run: with a config and a checkpoint.
        seconds: to spend on features.
        dataset: the training set; None to make it by the config.

    Raises:
        ValueError: if there is no checkpoint, or it holds no pseudo-labels of these images.
        Exception: whatever the data set or the network raises.
    """
    checkpoint = last_checkpoint(run.folder, saved_checkpoints(run.folder))
    if checkpoint is None:
        raise ValueError('There is no checkpoint in the work dir yet.')
    config = config_of(run.folder)
    if config is None:
        raise ValueError('There is no config in the work dir.')
    cfg = Config.fromfile(config)
    dataset = without_repetition(training_images(cfg) if dataset is None else dataset)
    heads = heads_of(run, cfg, checkpoint, dataset)
    network = load_frozen(cfg, checkpoint)
    network.to('cuda' if torch.cuda.is_available() else 'cpu')
    classes = classes_of(dataset)
    choices = [Choice(head, classes) for head in heads]
    rows = rows_to_look_at(heads, choices, len(dataset))
    images = plain_images(dataset, cfg, network, size=image_size(cfg, dataset.get_data_info(0)))
    row_S, pooled_SC, projected_SD = features(network, images, rows, seconds)
    notes = []
    if len(row_S) < len(rows):
        notes.append(
            f'{run.name}: {len(row_S):,} of {len(rows):,} images were looked at: those that can be '
            f'read, within {seconds:.0f} seconds.'
        )
    name = str(cfg.train_dataloader.dataset)
    sample = row_S, pooled_SC, projected_SD
    return LookedAt(name, dataset.get_data_info, *sample, heads, classes, notes)


def heads_of(run: Run, cfg: Config, checkpoint: str, dataset: Dataset) -> list[Head]:
    """The clusterings in a checkpoint, with a label for each image of the data set of today.

    Raises:
        ValueError: if there are none, or they are of other images.
    """
    content = read_checkpoint(checkpoint)
    state = weights_of(content, checkpoint)
    tables = tables_in(state)
    if not tables:
        raise ValueError(f'{Path(checkpoint).name} has no pseudo-labels.')
    rows = rows_in(content, dataset, len(next(iter(tables.values()))))
    clusters = clusters_in({name.removeprefix('module.'): x for name, x in state.items()})
    found = list(clusters.values()) if len(clusters) == len(tables) else [None] * len(tables)
    centers = [center_directions(one) for one in found]
    labels = [np.where(rows >= 0, x.numpy().astype(np.int64)[rows], -1) for x in tables.values()]
    names = list(run.clusterings())
    if len(names) != len(labels):
        method = cfg.model.type.rpartition('.')[2].lower()
        names = [f'{method} {number}' for number in range(len(labels))]
    return [Head(*parts) for parts in zip(names, labels, centers, strict=True)]


def center_directions(clusters: Clusters | None) -> np.ndarray | None:
    """Centers as unit vectors (K, D); None where a classifier assigns images."""
    if clusters is None or clusters.bias is not None:
        return None
    return normalize(clusters.weight.float(), dim=1).numpy()


def rows_in(content: dict, dataset: Dataset, num_labels: int) -> np.ndarray:
    """Where the images of a data set are in the tables of a checkpoint, int64 (A,); -1: nowhere.

    Raises:
        ValueError: if they are other images.
    """
    before = content.get(KEYS)
    keys = None if before is None else sample_keys(dataset)
    if keys is not None:
        rows = rows_of_before(keys, before.numpy())
        if (rows >= 0).sum() >= num_labels / 2:
            return rows
    elif len(dataset) == num_labels:
        return np.arange(num_labels)
    raise ValueError(
        f'The checkpoint is of {num_labels:,} images, and the data set of the config has others '
        f'now ({len(dataset):,}).'
    )


def classes_of(dataset: Dataset) -> Classes | None:
    """Labels that the records of a data set have; None where they have none."""
    first = dataset.get_data_info(0).get('gt_label')
    if not np.issubdtype(np.asarray('none' if first is None else first).dtype, np.integer):
        return None
    records = (record for leaf in leaves_of(dataset) for record in records_of(leaf))
    label = np.array([int(np.ravel(record.get('gt_label', -1))[0]) for record in records])
    names = getattr(dataset, 'metainfo', {}).get('classes') or ()
    return Classes(label, [str(name) for name in names])


def image_size(cfg: Config, record: dict) -> int:
    """Side that images are looked at with: as they are in memory, or as training crops them."""
    if 'img' in record:
        return min(np.asarray(record['img']).shape[:2])
    return size_of_views(cfg)


def size_of_views(cfg: Config) -> int:
    """Side of the images that a network was trained on; 224 if the recipe does not say."""
    first = cfg.train_dataloader.dataset.pipeline[0]
    return first.views[0].size if first.get('views') else 224


@torch.no_grad()
def features(
    network: FrozenNetwork, images: Dataset, rows: np.ndarray, seconds: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of as many images as there is time for; those that cannot be read are left out.

    Args:
        network: on its device.
        images: without augmentation.
        rows: of the images, those that matter most first.
        seconds: after which no further batch is begun.

    Returns:
        Rows (S,), pooled features (S, C) and projections (S, D), these as unit vectors; without a
        neck both are the same.

    Raises:
        ValueError: if no image can be read, or a feature is not finite.
    """
    which = ('pooled', 'projected' if network.neck is not None else 'pooled')

    def forward(network: FrozenNetwork, batch: dict) -> list[Tensor]:
        maps = maps_of(network, view_of(network, batch))
        return [feature_of(name)(maps, network).float().cpu() for name in which]

    found, parts, end = [], [], time.monotonic() + seconds
    options = dict(batch_size=BATCH_SIZE, num_workers=0, progress=iter)
    with full_precision():
        for part, out in run_batches(network, forward, images, rows.tolist(), [], **options):
            found += part
            parts.append(out)
            if time.monotonic() > end:
                break
    if not parts:
        raise ValueError('Not one of the images can be read.')
    pooled, projected = (normalize(torch.cat(x), dim=1).numpy() for x in zip(*parts, strict=True))
    if not (np.isfinite(pooled).all() and np.isfinite(projected).all()):
        raise ValueError('The features of the last checkpoint are not finite: the run diverged.')
    return np.array(found, np.int64), pooled, projected
