"""What a training on a folder has learned: numbers, two pages, and what to do next."""

import json
import os
import shlex
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import set_random_seed
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.data import Dataset

import mmcoke
from mmcoke.clustering import kmeans
from mmcoke.datasets import UnreadableImageError
from mmcoke.datasets.batches import unlabelled_batch
from mmcoke.engine.run_report import IN_TRAINING, write_run_report
from mmcoke.evaluation.clusterings import spread_samples
from mmcoke.evaluation.view_agreement import ViewAgreement, view_agreement
from mmcoke.features.extraction import averaged
from mmcoke.features.unreadable import UNREADABLE
from mmcoke.files import write_text
from mmcoke.registry import DATASETS
from mmcoke.reporting.gallery import write_gallery
from mmcoke.reporting.report import REPORT, Extras
from mmcoke.reporting.results import write_results

SAMPLE = 500
"""Images, drawn at random, on which the network is measured and which the pages show."""

NEIGHBOURS = 10
COLUMNS = dict(found='own view found', common='neighbours in common')
PROTOCOL = (
    'Each of {number:,} images is cropped and coloured at random, twice. Own view found: share of '
    'the images whose nearest neighbour (cosine of pooled features) among the second views is '
    'their own. Neighbours in common: of the {k} nearest other images by the first views and by '
    'the second, the share that is in both. No labels are used.'
)


class Clusters(NamedTuple):
    """Sizes of one clustering at the end, in images."""

    number: int
    smallest: int
    largest: int
    bound: float


class Summary(NamedTuple):
    """What was learned.

    Attributes:
        before: agreement of two views by the network that training began with; None if that was
            not noted.
        after: by the trained one.
        clusters: of each clustering of the training.
        unreadable: number of images that could not be read.
    """

    before: ViewAgreement | None
    after: ViewAgreement
    clusters: list[Clusters]
    unreadable: int


# ---- numbers


@torch.no_grad()
def agreement_of(model: nn.Module, cfg: Config) -> ViewAgreement:
    """Agreement of two views, cropped and coloured as in training, by a network.

    Args:
        model: an algorithm; in evaluation mode meanwhile.
        cfg: of the run.

    Raises:
        ValueError: if too few images can be read.
    """
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    rows = sample_rows(len(dataset))
    training = model.training
    model.eval()
    try:
        views = [pooled_views(model, dataset, rows, number) for number in range(2)]
    finally:
        model.train(training)
    return view_agreement(*views, k=NEIGHBOURS)


def pooled_views(model: nn.Module, dataset: Dataset, rows: list[int], number: int) -> Tensor:
    """Pooled features of a random view of each image that can be read (A, C), on the CPU.

    Args:
        number: of the view: another number, other random numbers.
    """
    set_random_seed(number)
    if hasattr(model.data_preprocessor, 'set_epoch'):
        model.data_preprocessor.set_epoch(number, number)
    parts = []
    for samples in batches(readable(dataset, rows)):
        inputs = model.data_preprocessor(unlabelled_batch(samples), True)['inputs']
        view = inputs if isinstance(inputs, Tensor) else inputs[0]
        parts.append(averaged(model.backbone(view)[-1]).cpu())
    if not parts:
        raise ValueError('Not one of the images can be read.')
    return torch.cat(parts)


def readable(dataset: Dataset, rows: Iterable[int]) -> Iterator[dict]:
    """Samples of a data set, without those that cannot be read."""
    for row in rows:
        try:
            yield dataset[row]
        except (UnreadableImageError, OSError):
            continue


def batches(samples: Iterable[dict], size: int = 64) -> Iterator[list[dict]]:
    """Samples in lists of a size; the last one may be shorter."""
    samples = iter(samples)
    while batch := list(islice(samples, size)):
        yield batch


def sample_rows(number: int) -> list[int]:
    """Up to :data:`SAMPLE` rows of a data set, in order."""
    random = np.random.default_rng(0)
    return sorted(random.permutation(number)[:SAMPLE].tolist())


def clusters_of(model: nn.Module) -> list[Clusters]:
    """Sizes of each clustering of a trained algorithm."""
    found = []
    for labeler in model.labelers:
        sizes = labeler.sizes()
        bound = getattr(labeler, 'lower_bound', 0) * int(sizes.sum())
        found.append(Clusters(len(sizes), int(sizes.min()), int(sizes.max()), float(bound)))
    return found


def count_unreadable(out: Path) -> int:
    """Images that a run has left out."""
    path = out / UNREADABLE
    return len(path.read_bytes().splitlines()) if path.is_file() else 0


# ---- pages


def write_pages(out: Path, cfg: Config, found: Summary, **names) -> list[str]:
    """``report.html`` and ``gallery.html`` in the folder of a run.

    Args:
        out: the folder.
        cfg: of the run.
        found: what it has learned.
        **names: ``checkpoint``, ``config`` and ``title`` of the run, ``command`` that repeats it
            and ``size`` of the images.

    Returns:
        What is missing on the report, a line each.
    """
    photos, label, similarity = clustered(cfg, names['config'], names['checkpoint'], names['size'])
    write_gallery(
        out / 'gallery.html',
        photos,
        label,
        similarity,
        title=names['title'],
        summary=f'{len(photos):,} images in {len(label.unique())} clusters, by k-means of the '
        'features of the trained network. The most typical ones first.',
    )
    networks = {'trained network': found.after, 'before training': found.before}
    rows = [
        dict(network=name) | {COLUMNS[key]: share for key, share in one._asdict().items()}
        for name, one in networks.items()
        if one is not None
    ]
    protocol = PROTOCOL.format(number=len(photos), k=NEIGHBOURS)
    write_results(out, 'two_views', rows, protocol=protocol)
    return write_run_report(
        out / REPORT,
        [out],
        seconds=IN_TRAINING,
        thorough=False,
        extras=Extras(
            names['title'],
            f'{cfg.train_cfg.max_epochs} epochs. {len(photos):,} images are shown by clusters of '
            'their features in gallery.html, beside this page.',
            command=names['command'],
        ),
    )


def clustered(
    cfg: Config, config: Path, checkpoint: Path, size: int
) -> tuple[list[Path], Tensor, Tensor]:
    """Some images, their clusters, and similarities to the centers of these.

    By spherical k-means of the pooled features, with the middle number of clusters of the run, of
    as many images as it sees.
    """
    dataset = DATASETS.build(dict(cfg.train_dataloader.dataset, pipeline=[]))
    rows = sample_rows(len(dataset))
    photos = [Path(dataset.get_data_info(row)['img_path']) for row in rows]
    extractor = mmcoke.FeatureExtractor(config, checkpoint, size=size, progress=False)
    x_AD = normalize(extractor(photos, tensors=True, skip_unreadable=True), dim=1)
    kept = x_AD.isfinite().all(1)
    photos = [photo for photo, is_kept in zip(photos, kept.tolist(), strict=True) if is_kept]
    x_AD = x_AD[kept]
    num_clusters = max(2, min(len(x_AD) // 25, 30))
    start = spread_samples(x_AD, num_clusters)
    label, centers_KD = kmeans(x_AD, num_clusters, spherical=True, init=start)
    return photos, label, (x_AD * centers_KD[label]).sum(1)


# ---- on the screen


def show(console: Console, found: Summary) -> None:
    """Print what was learned."""
    table = Table('network', *COLUMNS.values(), title='Two random views of each image')
    networks = {'before training': found.before, 'trained': found.after}
    for name, agreement in networks.items():
        if agreement:
            table.add_row(name, *(f'{100 * share:.0f} %' for share in agreement))
    console.print(table)
    for one in found.clusters:
        bound = f'; lower bound {one.bound:.0f}' if one.bound else ''
        console.print(f'{one.number} clusters of {one.smallest:,} to {one.largest:,} images{bound}')


def commands(folder: Path, out: Path, checkpoint: Path, size: int, epochs: int) -> list[str]:
    """What to do next, each as a line for a shell."""
    config = out / 'config.py'
    network = ['--config', config, '--checkpoint', checkpoint, '--size', size]
    frozen = [config, checkpoint, '--size', size]
    lines = [
        ['sort', folder, *network, '--out', out / 'sorted'],
        ['evaluate', 'knn', *frozen, '--data-root', 'LABELLED_FOLDER'],
        ['train', folder, '--out', out, '--resume', '--epochs', 2 * epochs],
    ]
    return [' '.join(['mmcoke', *(quoted(str(word)) for word in line)]) for line in lines]


def quoted(word: str) -> str:
    """A word for a shell, as text that can be printed: bytes that are not UTF-8 as escapes."""
    try:
        word.encode()
    except UnicodeEncodeError:
        escaped = os.fsencode(word.replace('\\', '\\\\').replace("'", "\\'"))
        return f"$'{escaped.decode('utf-8', 'backslashreplace')}'"
    return shlex.quote(word)


def write_summary(path: Path, found: Summary) -> None:
    """As JSON, for programs."""
    content = dict(
        before=found.before and found.before._asdict(),
        after=found.after._asdict(),
        clusters=[one._asdict() for one in found.clusters],
        unreadable=found.unreadable,
    )
    write_text(path, json.dumps(content, indent=2))
