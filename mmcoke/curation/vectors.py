"""Vectors of images on the disk, with their names: made by a network, or given."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.dist import barrier, is_main_process
from torch import Tensor

from mmcoke.clustering.row_stream import memory_mapped
from mmcoke.datasets.folder import say
from mmcoke.datasets.listing import list_images
from mmcoke.features.extractor import FeatureExtractor, Images
from mmcoke.features.store import FEATURES, extract_to_disk, read_meta, rows_left_out
from mmcoke.features.unreadable import UNREADABLE, Unreadable, check_readable, write_notes
from mmcoke.files import read_array, write_rows
from mmcoke.messages import shown

from .names import read_paths, write_names

CHUNK_SIZE = 1 << 14
"""Rows that are copied at once."""

VECTORS, LISTED, KEPT = 'vectors.npy', 'listed', 'names'
FEATURE = 'pooled'
UNKNOWN = 'cannot be read'
ZERO = 'the network gives a vector of zeros for it'


def open_vectors(path: str | Path) -> Tensor:
    """Vectors (A, D) of an ``.npy`` file, which stay on the disk.

    Raises:
        OSError: if the file cannot be opened.
        ValueError: if it is damaged or holds something else.
    """
    array = read_array(path, mmap=True)
    if array.ndim != 2 or array.dtype not in (np.float16, np.float32) or not array.dtype.isnative:
        raise ValueError(
            f'{shown(path)} holds {array.dtype} {array.shape}. Vectors are float16 or float32, a '
            "row per image: np.save('X.npy', x.astype('float32').reshape(len(x), -1))."
        )
    return memory_mapped(str(path))


# ---- given vectors


def check_given(features: str | Path, paths: str | Path) -> list[str]:
    """Names of the images whose vectors are given.

    Raises:
        OSError: if a file cannot be opened.
        ValueError: if the numbers of vectors and paths differ, or there are none.
    """
    x_AD, names = open_vectors(features), read_paths(paths)
    if len(x_AD) != len(names) or not names:
        raise ValueError(
            f'{shown(features)} has {len(x_AD):,} vectors, and {shown(paths)} {len(names):,} '
            'paths. Each vector needs the path of its image, in the same order, one a line.'
        )
    return names


# ---- vectors made by a network


class Paths(Sequence):
    """Absolute paths of named images.

    Args:
        root: folder of the names that are not absolute.
        names: of the images.
    """

    def __init__(self, root: str, names: Sequence[str]) -> None:
        self.root, self.names = root, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> str:
        return os.path.join(self.root, self.names[row])


class ImageFiles(Images):
    """Image files as the pipeline of a network takes them, with their names.

    Args:
        paths: of the files.
        extractor: whose pipeline it is.
    """

    def __init__(self, paths: Sequence[str], extractor: FeatureExtractor) -> None:
        some = [paths[row] for row in range(min(3, len(paths)))]
        files = extractor.file_pipeline(some)
        super().__init__(paths, extractor.pipeline, files, grey=extractor.grey)

    def get_data_info(self, row: int) -> dict:
        """The record of a file, which :func:`extract_to_disk` remembers it by."""
        return dict(img_path=self.images[row])


def image_names(root: str, out: str) -> list[str]:
    """Images in a folder and below it, sorted; without those in the folder of the results.

    Raises:
        ValueError: if there are none.
    """
    if not os.path.isdir(root):
        raise ValueError(f'There is no folder {shown(root)}. Name the folder with your images.')
    listing = list_images(root)
    say(listing.note())
    inside = os.path.relpath(out, root) + '/'
    names = [name for name in listing.images if not name.startswith(inside)]
    if not names:
        raise ValueError(f'There is no image in {shown(root)} or the folders below it.')
    return names


def extract(
    extractor: FeatureExtractor,
    paths: Paths,
    work: Path,
    *,
    progress: Callable[[Iterable], Iterable] = iter,
) -> str:
    """Write the vectors of all images that can be read, and their names; all processes call it.

    What a stopped run has made is not made again. ``unreadable.txt`` in the same folder names the
    other images, with the reasons.

    Args:
        extractor: the network, and how images are read for it.
        paths: of the images.
        work: folder of the files ``vectors.npy`` and ``names``.
        progress: wraps the iterable of batches.

    Returns:
        What tells the network from others.

    Raises:
        UnreadableImageError: if no image can be read.
        ValueError: as :func:`~mmcoke.features.store.extract_to_disk`.
    """
    folder = work / 'extracted'
    extract_to_disk(
        extractor.network,
        ImageFiles(paths, extractor),
        folder,
        {FEATURE: FEATURES[FEATURE]},
        batch_size=extractor.batch_size,
        num_workers=extractor.num_workers,
        device=extractor.device,
        progress=progress,
        skip_unreadable=True,
    )
    network = read_meta(folder)['network']
    barrier()
    if is_main_process():
        keep_good_rows(folder, paths, work)
    barrier()
    return network


def keep_good_rows(folder: Path, paths: Paths, work: Path) -> None:
    """Move extracted vectors to their place, without the rows that hold none."""
    x_AD = open_vectors(folder / f'{FEATURE}.npy')
    good = np.concatenate([has_direction(part) for part in x_AD.split(CHUNK_SIZE)])
    notes = all_notes(folder, paths, np.flatnonzero(~good))
    if not good.any():
        check_readable(notes, len(paths))
    rows = np.flatnonzero(good)
    write_names(work / KEPT, (paths.names[row] for row in rows.tolist()))
    if notes:
        write_notes(work / UNREADABLE, notes)
        write_rows(work / VECTORS, (len(rows), x_AD.shape[1]), parts_of(x_AD, rows))
    else:
        del x_AD
        (folder / f'{FEATURE}.npy').replace(work / VECTORS)
    shutil.rmtree(folder)


def has_direction(x_nD: Tensor) -> np.ndarray:
    """Which vectors are finite and not 0, bool (n,)."""
    return (x_nD.isfinite().all(1) & (x_nD != 0).any(1)).numpy()


def all_notes(folder: Path, paths: Paths, bad: np.ndarray) -> list[Unreadable]:
    """Notes of the images without a vector."""
    listing, reasons = folder / UNREADABLE, {}
    if listing.is_file():
        for line in os.fsdecode(listing.read_bytes()).split('\n'):
            name, _, reason = line.rpartition('\t')
            reasons[name] = reason
    reasons |= {row: reasons.get(paths[row], UNKNOWN) for row in rows_left_out(folder)}
    return [
        Unreadable(row, paths.names[row].replace('\n', '\\n'), reasons.get(row, ZERO))
        for row in bad.tolist()
    ]


def parts_of(x_AD: Tensor, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Some rows of vectors, in chunks."""
    for start in range(0, len(rows), CHUNK_SIZE):
        yield x_AD[torch.from_numpy(rows[start : start + CHUNK_SIZE])].numpy()
