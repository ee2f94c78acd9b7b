"""Features of whole data sets in files, made by one process or by many."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from mmengine.dataset import BaseDataset, default_collate
from mmengine.dist import barrier, get_dist_info
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.data import Dataset, Subset

from mmcoke.files import read_array, read_json, write_text
from mmcoke.models.stages import NUM_STAGES, has_stages, pool_stage, stage_outputs

from .backbones import FrozenNetwork
from .extraction import averaged, run, view_of

Feature = Callable[[list[Tensor], FrozenNetwork], Tensor]
"""From the feature maps of a batch (those of all five stages, if the backbone is a ResNet, else its
outputs) and the network to one row per image (n, D)."""

LABEL = 'gt_label'
META = 'meta.json'
DONE = 'done.npy'

SECONDS_BETWEEN_RECORDS = 30
"""So much work is lost at most when a process is killed."""


def stage_feature(stage: int) -> Feature:
    """The pooled map of one stage of a ResNet as a row; of ResNet-50 about 9,000 numbers."""

    def feature(maps: list[Tensor], network: FrozenNetwork) -> Tensor:
        if len(maps) != NUM_STAGES:
            raise ValueError(
                f'stage{stage} needs a ResNet; of {type(network.backbone).__name__} take pooled.'
            )
        return pool_stage(maps[stage], stage).flatten(1)

    return feature


def pooled(maps: list[Tensor], network: FrozenNetwork) -> Tensor:
    """The backbone's last feature map, averaged over space (n, C)."""
    return averaged(maps[-1])


def projected(maps: list[Tensor], network: FrozenNetwork) -> Tensor:
    """The L2-normalized projections (n, D)."""
    if network.neck is None:
        raise ValueError('There are no projections: the network has no neck. Take pooled.')
    return normalize(network.neck((maps[-1],))[-1], dim=1)


FEATURES: dict[str, Feature] = {
    **{f'stage{stage}': stage_feature(stage) for stage in range(NUM_STAGES)},
    'pooled': pooled,
    'projected': projected,
}
"""By the names that users type."""


def extract_to_disk(
    network: FrozenNetwork,
    dataset: Dataset,
    folder: str | Path,
    features: Mapping[str, Feature],
    *,
    batch_size: int = 64,
    num_workers: int = 0,
    device: str | torch.device = 'cpu',
    progress: Callable[[Iterable], Iterable] = iter,
) -> dict[str, np.ndarray]:
    """Write features of all images of a data set, in its order; all processes call it.

    Each process takes an equal part of what is still missing, so an interrupted run goes on where
    it was, on any number of processes. Neither their number nor ``batch_size`` changes a feature by
    more than rounding. Features that are there already are not made again.

    Args:
        network: it is moved to ``device``.
        dataset: its pipeline makes one view, ends with ``PackInputs`` and does not augment.
        folder: where the files go; on a file system that all processes share.
        features: what to write, by name, such as some of :data:`FEATURES`.
        batch_size: images per forward pass.
        num_workers: processes that load images, per process.
        device: of the network.
        progress: wraps the iterable of batches, such as ``rich.progress.track``.

    Returns:
        What :func:`open_features` returns.

    Raises:
        ValueError: if the folder holds features of something else, the data set is empty, augments
            or replaces images, or a feature is not finite.
    """
    folder, network = Path(folder), network.to(device)
    rank, world_size = get_dist_info()
    if rank == 0:
        prepare(network, dataset, folder, features)
    barrier()
    if not read_meta(folder)['complete']:
        missing = np.flatnonzero(read_array(folder / DONE) == 0)
        barrier()  # all know what is missing before the first one adds to it
        part = np.array_split(missing, world_size)[rank]
        options = dict(batch_size=batch_size, num_workers=num_workers, progress=progress)
        with RowWriter(folder, part, isinstance(dataset, BaseDataset)) as writer, full_precision():
            forward = writer_of(features, writer)
            run(network, forward, Subset(dataset, part.tolist()), **options)
        barrier()
        if rank == 0:
            finish(folder)
        barrier()
    return open_features(folder)


def open_features(folder: str | Path) -> dict[str, np.ndarray]:
    """Complete features by name, float32 (A, D), and ``gt_label`` where there are labels.

    The arrays are memory-mapped and read-only. ``gt_label`` is int64 (A,), and -1 for an image that
    has not exactly one label.

    Raises:
        ValueError: if there are none, or they are not complete.
    """
    folder = Path(folder)
    meta = read_meta(folder)
    if meta is None or not meta['complete']:
        state = 'There are no features' if meta is None else 'Features are not complete'
        raise ValueError(f'{state} in {folder}. Run tools/extract_features.py (again).')
    names = [*meta['features'], *([LABEL] if meta['labels'] else [])]
    arrays = {name: read_array(folder / f'{name}.npy', mmap=True) for name in names}
    wrong = [name for name, array in arrays.items() if array.shape[:1] != (meta['num_samples'],)]
    if wrong:
        raise ValueError(
            f'{wrong[0]}.npy in {folder} is {arrays[wrong[0]].shape}, not of {meta["num_samples"]} '
            'rows. Remove the folder, and run tools/extract_features.py again.'
        )
    return arrays


# ---- what a folder holds


def prepare(
    network: FrozenNetwork, dataset: Dataset, folder: Path, features: Mapping[str, Feature]
) -> None:
    """Make empty files, or see that those in the folder are of the same features."""
    wanted = describe(network, dataset, features)
    stored = read_meta(folder)
    if stored is None:
        create_files(folder, wanted)
        write_meta(folder, wanted)
        return
    # Of complete features some may be asked for; half-made ones must be completed together.
    shared = stored['features'].items() & wanted['features'].items()
    expected = dict(stored['features']) if not stored['complete'] else dict(shared)
    differ = [name for name in ('network', 'images', 'num_samples') if stored[name] != wanted[name]]
    differ += ['features'] * (wanted['features'] != expected)
    if differ:
        raise ValueError(
            f'{folder} holds features that differ in {", ".join(differ)}: of '
            f'{stored["origin"].get("checkpoint", "another network")}, '
            f'{", ".join(stored["features"])}, {stored["num_samples"]} images. Remove the folder '
            'or name another.'
        )


@torch.no_grad()
def describe(network: FrozenNetwork, dataset: Dataset, features: Mapping[str, Feature]) -> dict:
    """What the features are made of; the content of ``meta.json``."""
    if not len(dataset):
        raise ValueError('The data set is empty.')
    probes = [default_collate([dataset[i]]) for i in (0, 0, len(dataset) // 2, len(dataset) - 1)]
    first, again, *others = map(pixels, probes)
    if first != again:
        raise ValueError(
            'The pipeline makes another image of the same file each time. Features are taken '
            'without augmentation: give a pipeline that is not random.'
        )
    image = view_of(network, probes[0])
    return dict(
        network=digest([*network.parameters(), *network.buffers()]),
        images=[first, *others],
        num_samples=len(dataset),
        features={name: width(name, feature, network, image) for name, feature in features.items()},
        labels=LABEL in probes[0]['data_samples'][0],
        origin=network.origin,
        complete=False,
    )


def width(name: str, feature: Feature, network: FrozenNetwork, image: Tensor) -> int:
    """D of a feature.

    Raises:
        ValueError: if it is no row of numbers, or another one each time.
    """
    row, again = (feature(maps_of(network, image), network) for _ in range(2))
    kind = type(network.backbone).__name__
    if row.ndim != 2 or not row.is_floating_point():
        raise ValueError(f'{name} of {kind} has shape {tuple(row.shape)}: no row per image.')
    if (row - again).abs().max() > 0.01 * row.abs().max():  # not equal: kernels may round
        raise ValueError(
            f'{name} of {kind} is another one each time: the backbone masks images at random. '
            'Give the config of a network that classifies, with the same checkpoint.'
        )
    return row.shape[1]


def create_files(folder: Path, meta: dict) -> None:
    """Empty arrays of the right size.

    Raises:
        ValueError: if the disk is too small for them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    num_samples = meta['num_samples']
    needed, free = num_samples * 4 * sum(meta['features'].values()), shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f'The features need {needed / 1e9:.1f} GB, but {folder} has {free / 1e9:.1f} GB left.'
        )
    shapes = {name: (np.float32, (num_samples, dim)) for name, dim in meta['features'].items()}
    shapes |= {LABEL: (np.int64, (num_samples,))} if meta['labels'] else {}
    for name, (dtype, shape) in shapes.items():
        np.lib.format.open_memmap(folder / f'{name}.npy', 'w+', dtype, shape).flush()
    np.save(folder / DONE, np.zeros(num_samples, np.uint8))


def finish(folder: Path) -> None:
    """Say that all rows are there."""
    num_missing = int((read_array(folder / DONE) == 0).sum())
    if num_missing:
        raise ValueError(f'{num_missing} rows are missing in {folder}. Run it again.')
    write_meta(folder, read_meta(folder) | dict(complete=True))
    (folder / DONE).unlink()


def read_meta(folder: Path) -> dict | None:
    """Content of ``meta.json``; None if there is none."""
    path = folder / META
    keys = ('complete', 'num_samples', 'features', 'labels')
    return read_json(path, *keys) if path.is_file() else None


def write_meta(folder: Path, meta: dict) -> None:
    write_text(folder / META, json.dumps(meta, indent=2) + '\n')


def pixels(batch: dict) -> str:
    """Hash of the images of a collated batch."""
    inputs = batch['inputs']
    return digest([inputs] if isinstance(inputs, Tensor) else inputs)


def digest(tensors: Iterable[Tensor]) -> str:
    """Hash of the values and shapes of some tensors."""
    result = hashlib.sha256()
    for x in tensors:
        result.update(str(tuple(x.shape)).encode())
        result.update(x.detach().cpu().contiguous().numpy().tobytes())
    return result.hexdigest()


# ---- writing


@contextmanager
def full_precision() -> Iterator[None]:
    """Convolutions without TF32, torch's default, whose errors of 1e-3 depend on the batch size."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def maps_of(network: FrozenNetwork, images: Tensor) -> list[Tensor]:
    """What a :data:`Feature` gets."""
    if has_stages(network.backbone):
        return stage_outputs(network.backbone, images)
    maps = network.backbone(images)
    return list(maps) if isinstance(maps, (tuple, list)) else [maps]


class RowWriter:
    """Writes given rows of the arrays in a folder, in order, and notes them as done.

    With ordinary writes, not through memory maps: these end the process without a word when the
    disk is full, and overwrite the neighbours' rows on network file systems.

    Args:
        folder: of files that :func:`create_files` has made.
        rows: numbers of the rows.
        check_order: whether the samples' ``sample_idx`` must be those numbers.
    """

    def __init__(self, folder: Path, rows: np.ndarray, check_order: bool) -> None:
        self.folder, self.rows, self.check_order = folder, rows, check_order
        self.written = self.noted = 0
        self.arrays, self.files = {}, {}
        self.opened = ExitStack()

    def __enter__(self) -> 'RowWriter':
        self.recorded_at = time.monotonic()
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self.opened:
            self.record()

    def write(self, batch: Mapping[str, Tensor], samples: list) -> None:
        """Write the next rows.

        Args:
            batch: features by name (n, D).
            samples: data samples of the same images.

        Raises:
            ValueError: if a feature is not finite, or a sample is another one than it should be.
        """
        rows = self.rows[self.written : self.written + len(samples)]
        self.check(batch, samples, rows)
        for name, x in batch.items():
            self.put(name, rows, x.float().cpu().numpy())
        if (self.folder / f'{LABEL}.npy').exists():
            self.put(LABEL, rows, np.array([only_label(sample) for sample in samples]))
        self.written += len(rows)
        if time.monotonic() - self.recorded_at > SECONDS_BETWEEN_RECORDS:
            self.record()

    def check(self, batch: Mapping[str, Tensor], samples: list, rows: np.ndarray) -> None:
        for name, x in batch.items():
            if not torch.isfinite(x).all():
                raise ValueError(
                    f'{name} of images {rows[0]} ... {rows[-1]} is not finite. See whether the '
                    'checkpoint is that of a run that diverged.'
                )
        for sample, row in zip(samples, rows.tolist(), strict=True):
            if self.check_order and sample.get('sample_idx', row) != row:
                raise ValueError(
                    f'Instead of image {row} the data set gives image {sample.sample_idx}: it '
                    'cannot be read. Leave ignore_empty out of LoadImageFromFile to see why.'
                )

    def put(self, name: str, rows: np.ndarray, values: np.ndarray) -> None:
        """Write values (n, ...) into rows (n,) of a file."""
        if name not in self.files:
            path = self.folder / f'{name}.npy'
            self.arrays[name] = read_array(path, mmap=True)
            self.files[name] = self.opened.enter_context(path.open('r+b'))
        array, file = self.arrays[name], self.files[name]
        values = np.ascontiguousarray(values, array.dtype)
        for row, value in zip(rows.tolist(), values, strict=True):
            file.seek(array.offset + row * array.strides[0])
            file.write(value.tobytes())

    def record(self) -> None:
        """Bring what was written to the disk, then note it as done."""
        self.sync()
        rows = self.rows[self.noted : self.written]
        self.put('done', rows, np.ones(len(rows)))
        self.sync()
        self.noted, self.recorded_at = self.written, time.monotonic()

    def sync(self) -> None:
        for file in self.files.values():
            file.flush()
            os.fsync(file.fileno())


def writer_of(features: Mapping[str, Feature], writer: RowWriter) -> Callable:
    """Function that writes the features of one collated batch; for :func:`features.run`."""

    def forward(network: nn.Module, batch: dict) -> None:
        maps = maps_of(network, view_of(network, batch))
        rows = {name: feature(maps, network) for name, feature in features.items()}
        writer.write(rows, batch['data_samples'])

    return forward


def only_label(sample: object) -> int:
    """The label of a data sample; -1 if it has none, or several."""
    label = torch.as_tensor(sample.get(LABEL, []))
    return int(label) if label.numel() == 1 else -1
