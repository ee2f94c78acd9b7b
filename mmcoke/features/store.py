"""Features of whole data sets in files, made by one process or by many."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from mmengine.dataset import BaseDataset, default_collate
from mmengine.dist import all_gather_object, barrier, get_dist_info
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.data import Dataset

from mmcoke.files import read_array, read_json, write_text, write_whole
from mmcoke.models.stages import NUM_STAGES, has_stages, pool_stage, stage_outputs

from .backbones import FrozenNetwork
from .extraction import averaged, run, view_of
from .unreadable import UNREADABLE, Noted, Unreadable, check_readable, write_notes

Feature = Callable[[list[Tensor], FrozenNetwork], Tensor]
"""From the feature maps of a batch (those of all five stages, if the backbone is a ResNet, else its
outputs) and the network to one row per image (n, D)."""

LABEL = 'gt_label'
META = 'meta.json'
DONE = 'done.npy'
NAMES = 'names.txt'

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


def feature_of(name: str) -> Feature:
    """A feature by its name, or by several names joined by ``+``: the fusion of these.

    A fusion has the L2-normalized features beside each other, so that each counts the same.

    Raises:
        ValueError: if there is no such feature.
    """
    unknown = [part for part in name.split('+') if part not in FEATURES]
    if unknown:
        raise ValueError(
            f'There is no feature {unknown[0]!r}. Take one of {", ".join(FEATURES)}, or some of '
            'them joined by +.'
        )
    if name in FEATURES:
        return FEATURES[name]
    parts = [FEATURES[part] for part in name.split('+')]

    def fused(maps: list[Tensor], network: FrozenNetwork) -> Tensor:
        return torch.cat([normalize(part(maps, network), dim=1) for part in parts], dim=1)

    return fused


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
    skip_unreadable: bool = False,
) -> dict[str, np.ndarray]:
    """Write features of all images of a data set, in its order; all processes call it.

    Each process takes an equal part of what is still missing, so an interrupted run goes on where
    it was, on any number of processes. Neither their number nor ``batch_size`` changes a feature by
    more than rounding. Features that are there already are not made again.

    ``names.txt`` has the names of image files, in the order of the rows. Images that cannot be read
    do not stop the others: in the end they are named all, and the next call tries them again.

    Args:
        network: it is moved to ``device``.
        dataset: its pipeline makes one view, ends with ``PackInputs`` and does not augment.
        folder: where the files go; on a file system that all processes share.
        features: what to write, by name, such as some of :data:`FEATURES`.
        batch_size: images per forward pass.
        num_workers: processes that load images, per process.
        device: of the network.
        progress: wraps the iterable of batches, such as ``rich.progress.track``.
        skip_unreadable: whether such images are left out: their rows are NaN, their labels -1, and
            ``unreadable.txt`` names them.

    Returns:
        What :func:`open_features` returns.

    Raises:
        UnreadableImageError: if images cannot be read, and are not left out.
        ValueError: if the folder holds features of something else, the data set is empty, augments
            or replaces images, or a feature is not finite.
    """
    folder, network = Path(folder), network.to(device)
    rank, world_size = get_dist_info()
    if rank == 0:
        prepare(network, dataset, folder, features, skip_unreadable)
    barrier()
    if not is_enough(read_meta(folder), skip_unreadable):
        missing = np.flatnonzero(read_array(folder / DONE) == 0)
        barrier()  # all know what is missing before the first one adds to it
        part = np.array_split(missing, world_size)[rank]
        options = dict(batch_size=batch_size, num_workers=num_workers, progress=progress)
        notes = write_rows(network, dataset, folder, features, part, options)
        notes = sorted(note for part in all_gather_object(notes) for note in part)
        if rank == 0:
            finish(folder, notes, skip_unreadable)
        barrier()
        if not skip_unreadable:
            where = f'All of them: {folder / UNREADABLE}. The features of the others are kept. '
            check_readable(notes, len(dataset), where=where)
    return open_features(folder)


def write_rows(
    network: FrozenNetwork,
    dataset: Dataset,
    folder: Path,
    features: Mapping[str, Feature],
    rows: np.ndarray,
    options: dict,
) -> list[Unreadable]:
    """Write some rows of all features; notes of the images that cannot be read."""
    notes: list[Unreadable] = []

    def forward(network: nn.Module, batch: dict) -> tuple[dict, list]:
        maps = maps_of(network, view_of(network, batch))
        found = {name: feature(maps, network) for name, feature in features.items()}
        return found, batch['data_samples']

    with RowWriter(folder, isinstance(dataset, BaseDataset)) as writer, full_precision():
        for found, outputs in run(network, forward, dataset, rows, notes, labelled=True, **options):
            writer.write(np.array(found), *outputs)
    return notes


def open_features(folder: str | Path) -> dict[str, np.ndarray]:
    """Complete features by name, float32 (A, D), and ``gt_label`` where there are labels.

    Among them are encodings that were made of them; see :mod:`mmcoke.features.encodings`.

    The arrays are memory-mapped and read-only. ``gt_label`` is int64 (A,), and -1 for an image that
    has not exactly one label. Rows of images that were left out (:func:`rows_left_out`) are NaN.

    Raises:
        ValueError: if there are none, or they are not complete.
    """
    folder = Path(folder)
    meta = read_meta(folder)
    if meta is None or not meta['complete']:
        state = 'There are no features' if meta is None else 'Features are not complete'
        raise ValueError(f'{state} in {folder}. Run tools/extract_features.py (again).')
    names = [*meta['features'], *meta.get('encodings', {}), *([LABEL] if meta['labels'] else [])]
    arrays = {name: read_array(folder / f'{name}.npy', mmap=True) for name in names}
    wrong = [name for name, array in arrays.items() if array.shape[:1] != (meta['num_samples'],)]
    if wrong:
        raise ValueError(
            f'{wrong[0]}.npy in {folder} is {arrays[wrong[0]].shape}, not of {meta["num_samples"]} '
            'rows. Remove the folder, and run tools/extract_features.py again.'
        )
    return arrays


def rows_left_out(folder: str | Path) -> list[int]:
    """Rows of complete features whose images could not be read."""
    return read_meta(Path(folder)).get('unreadable', [])


# ---- what a folder holds


def is_enough(meta: dict, skip_unreadable: bool) -> bool:
    """Whether features are complete, and lack no image that is wanted."""
    return meta['complete'] and (skip_unreadable or not meta.get('unreadable'))


def prepare(
    network: FrozenNetwork,
    dataset: Dataset,
    folder: Path,
    features: Mapping[str, Feature],
    skip_unreadable: bool,
) -> None:
    """Make empty files, or see that those in the folder are of the same features."""
    stored = read_meta(folder)
    probes = (stored or {}).get('probes', [0, len(dataset) // 2, len(dataset) - 1])
    probes = [min(row, len(dataset) - 1) for row in probes]
    wanted, names = describe(network, dataset, features, probes), names_of(dataset)
    wanted['names'] = names and hashlib.sha256(encoded(names)).hexdigest()
    if stored is None:
        create_files(folder, wanted)
        if names:
            write_whole(folder / NAMES, lambda path: path.write_bytes(encoded(names)))
        write_meta(folder, wanted)
        return
    # Of complete features some may be asked for; half-made ones must be completed together.
    shared = stored['features'].items() & wanted['features'].items()
    expected = dict(shared) if is_enough(stored, skip_unreadable) else dict(stored['features'])
    keys = ('network', 'images', 'num_samples', 'names')
    differ = [key for key in keys if key in stored and stored[key] != wanted[key]]
    differ += ['features'] * (wanted['features'] != expected)
    if differ:
        raise ValueError(
            f'{folder} holds features that differ in {", ".join(differ)}: of '
            f'{stored["origin"].get("checkpoint", "another network")}, '
            f'{", ".join(stored["features"])}, {stored["num_samples"]} images. Remove the folder '
            'or name another.'
        )


def names_of(dataset: Dataset) -> list[str] | None:
    """Names of the image files of a data set, below the folder of all; None if it has no files."""
    record_of = getattr(dataset, 'get_data_info', None)
    if record_of is None or 'img_path' not in record_of(0):
        return None
    paths = [str(record_of(row)['img_path']) for row in range(len(dataset))]
    # Not commonpath, which takes the two slashes of an address for one.
    root = os.path.commonprefix([os.path.dirname(path) + '/' for path in paths])  # noqa: RUF071
    return [path[root.rfind('/') + 1 :] for path in paths]


def encoded(names: Iterable[str]) -> bytes:
    """Names, one a line, as the file system spells them."""
    lines = ''.join(name.replace('\n', '\\n') + '\n' for name in names)
    return lines.encode('utf-8', 'surrogateescape')


@torch.no_grad()
def describe(
    network: FrozenNetwork,
    dataset: Dataset,
    features: Mapping[str, Feature],
    probes: Sequence[int],
) -> dict:
    """What the features are made of; the content of ``meta.json``.

    Args:
        network, dataset, features: see :func:`extract_to_disk`.
        probes: rows of images to look at; others are taken for those that cannot be read.
    """
    if not len(dataset):
        raise ValueError('The data set is empty.')
    found = [readable_near(dataset, row) for row in probes]
    first, *others = (default_collate([sample]) for _, sample in found)
    again = default_collate([dataset[found[0][0]]])
    if pixels(first) != pixels(again):
        raise ValueError(
            'The pipeline makes another image of the same file each time. Features are taken '
            'without augmentation: give a pipeline that is not random.'
        )
    image = view_of(network, first)
    return dict(
        network=digest_of(network),
        images=[pixels(batch) for batch in (first, *others)],
        probes=[row for row, _ in found],
        num_samples=len(dataset),
        features={name: width(name, feature, network, image) for name, feature in features.items()},
        labels=LABEL in first['data_samples'][0],
        origin=network.origin,
        complete=False,
    )


def readable_near(dataset: Dataset, row: int) -> tuple[int, dict]:
    """A row and its sample; if it cannot be read, those of another one, always the same.

    Raises:
        UnreadableImageError: if there is none.
    """
    others = np.random.default_rng(row).permutation(len(dataset))
    noted, notes = Noted(dataset, [row, *others]), []
    for found in map(noted.__getitem__, range(len(noted))):
        if not isinstance(found, Unreadable):
            return found
        notes.append(found)
    check_readable(sorted(set(notes)), len(dataset))


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


def finish(folder: Path, notes: Sequence[Unreadable], skip_unreadable: bool) -> None:
    """Say that all rows are there, but for those that are left out; list the latter."""
    rows = np.array([note.row for note in notes], int)
    done = read_array(folder / DONE)
    done[rows] = 1
    if num_missing := int((done == 0).sum()):
        raise ValueError(f'{num_missing} rows are missing in {folder}. Run it again.')
    meta = read_meta(folder)
    if notes:
        write_notes(folder / UNREADABLE, notes)
        with RowWriter(folder, False) as writer:
            writer.leave_out(rows, list(meta['features']))
    else:
        (folder / UNREADABLE).unlink(missing_ok=True)
    complete = skip_unreadable or not notes
    meta.pop('encodings', None)  # of what the rows were before
    write_meta(folder, meta | dict(complete=complete, unreadable=rows.tolist()))
    if not notes:
        (folder / DONE).unlink()


def read_meta(folder: Path) -> dict | None:
    """Content of ``meta.json``; None if there is none."""
    path = folder / META
    keys = ('complete', 'num_samples', 'features', 'labels')
    return read_json(path, *keys) if path.is_file() else None


def write_meta(folder: Path, meta: dict) -> None:
    write_text(folder / META, json.dumps(meta, indent=2) + '\n')


def note_encoding(folder: Path, name: str, centers: str) -> None:
    """Say that an encoding of the features is there, and the hash of the centers it is by."""
    meta = read_meta(folder)
    write_meta(folder, meta | dict(encodings=meta.get('encodings', {}) | {name: centers}))


def digest_of(network: FrozenNetwork) -> str:
    """Hash of the weights of a network, and of how it normalizes images."""
    return digest([*network.parameters(), *network.buffers()])


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
    """Writes rows of the arrays in a folder, and notes them as done.

    With ordinary writes, not through memory maps: these end the process without a word when the
    disk is full, and overwrite the neighbours' rows on network file systems.

    Args:
        folder: of files that :func:`create_files` has made.
        check_order: whether the samples' ``sample_idx`` must be the numbers of their rows.
    """

    def __init__(self, folder: Path, check_order: bool) -> None:
        self.folder, self.check_order = folder, check_order
        self.written: list[np.ndarray] = []
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

    def write(self, rows: np.ndarray, batch: Mapping[str, Tensor], samples: list) -> None:
        """Write some rows.

        Args:
            rows: their numbers (n,).
            batch: features by name (n, D).
            samples: data samples of the same images.

        Raises:
            ValueError: if a feature is not finite, or a sample is another one than it should be.
        """
        self.check(batch, samples, rows)
        for name, x in batch.items():
            self.put(name, rows, x.float().cpu().numpy())
        if (self.folder / f'{LABEL}.npy').exists():
            self.put(LABEL, rows, np.array([only_label(sample) for sample in samples]))
        self.written.append(rows)
        if time.monotonic() - self.recorded_at > SECONDS_BETWEEN_RECORDS:
            self.record()

    def leave_out(self, rows: np.ndarray, names: Sequence[str]) -> None:
        """Fill rows of some features with NaN, and their labels with -1; they are not done."""
        for name in names:
            width = read_array(self.folder / f'{name}.npy', mmap=True).shape[1]
            self.put(name, rows, np.full((len(rows), width), np.nan))
        if (self.folder / f'{LABEL}.npy').exists():
            self.put(LABEL, rows, np.full(len(rows), -1))

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
                    f'Instead of image {row} the data set gives image {sample.sample_idx}, as it '
                    'does for an image that cannot be read. Leave ignore_empty out of its pipeline.'
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
        for rows in self.written:
            self.put('done', rows, np.ones(len(rows)))
        self.sync()
        self.written, self.recorded_at = [], time.monotonic()

    def sync(self) -> None:
        for file in self.files.values():
            file.flush()
            os.fsync(file.fileno())


def only_label(sample: object) -> int:
    """The label of a data sample; -1 if it has none, or several."""
    label = torch.as_tensor(sample.get(LABEL, []))
    return int(label) if label.numel() == 1 else -1
