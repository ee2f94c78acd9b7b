"""Encodings of features on disk: how near each image is to the centers of clusters.

Order of use: :func:`known_centers`, :func:`~mmcoke.features.store.extract_to_disk` of ``pooled``,
:func:`cluster_pooled` if no centers are known, :func:`encode_triangle`. All processes call them.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from mmengine.dist import barrier, is_main_process
from torch import Tensor

from mmcoke.clustering import memory_mapped, stream_kmeans, triangle
from mmcoke.clustering.precision import unit_rows
from mmcoke.files import read_checkpoint, save_torch, write_rows, write_whole

from .backbones import FrozenNetwork
from .store import digest, digest_of, note_encoding, open_features, read_meta

SOURCE, TRIANGLE = 'pooled', 'triangle'
CENTERS = 'triangle_centers.pth'
GOOD_ROWS = 'triangle_rows.npy'
ROWS_PER_CHUNK = 1 << 12


def known_centers(
    folder: str | Path,
    network: FrozenNetwork,
    *,
    num_clusters: int | None = None,
    path: str | Path | None = None,
) -> Tensor | None:
    """Centers that need not be made: those of a file, or those of the folder; else None.

    It refuses, ahead of all work, what does not fit.

    Args:
        folder: of the features.
        network: that makes them.
        num_clusters: K of the centers in the folder; without ``path``.
        path: a file ``triangle_centers.pth`` of other images.

    Raises:
        OSError: if the file cannot be opened.
        ValueError: if a file is damaged or holds the centers of another network, or the folder
            holds other centers than the wanted ones.
    """
    stored = Path(folder) / CENTERS
    own = read_centers(stored, network) if stored.is_file() else None
    wanted = own if path is None else read_centers(path, network)
    if own is None:
        return wanted
    if not torch.equal(wanted, own) or (path is None and len(own) != num_clusters):
        raise ValueError(
            f'{stored} holds other centers, of {len(own)} clusters. Remove it, or name another '
            'folder.'
        )
    return wanted


def read_centers(path: str | Path, network: FrozenNetwork) -> Tensor:
    """Centers (K, D) of a file; see :func:`known_centers`."""
    content = read_checkpoint(path)
    centers_KD = content.get('centers') if isinstance(content, dict) else None
    if not isinstance(centers_KD, Tensor) or centers_KD.ndim != 2:
        raise ValueError(f'{path} holds no centers. Name a {CENTERS} beside other features.')
    if content.get('network') != digest_of(network):
        raise ValueError(
            f'{path} holds the centers of another network, {content.get("checkpoint")}. Name that '
            'one, or centers of this network.'
        )
    return centers_KD


def cluster_pooled(
    folder: str | Path,
    num_clusters: int,
    *,
    device: str | torch.device = 'cpu',
    progress: Callable[[Iterable], Iterable] = iter,
) -> Tensor:
    """Centers of the pooled features in a folder, by spherical k-means; unit vectors (K, D).

    Rows without a direction (NaN of images that were left out, or zeros) do not count.

    Args:
        folder: of complete features; see :func:`~mmcoke.features.store.extract_to_disk`.
        num_clusters: K, at most the number of images.
        device: where to compute.
        progress: wraps the iterable of steps.

    Raises:
        ValueError: if there are no complete features, or fewer images than clusters.
    """
    open_features(folder)
    source, good = Path(folder) / f'{SOURCE}.npy', Path(folder) / GOOD_ROWS
    if is_main_process():
        good.unlink(missing_ok=True)
        write_good_rows(source, good)
    barrier()
    x_AD = memory_mapped(str(good if good.is_file() else source))
    try:
        return stream_kmeans(x_AD, num_clusters, device=device, progress=progress).centers
    finally:
        if is_main_process():
            good.unlink(missing_ok=True)


def write_good_rows(source: Path, target: Path) -> None:
    """Copy the rows that have a direction into a file, if some have none."""
    x_AD = memory_mapped(str(source))
    parts = x_AD.split(ROWS_PER_CHUNK)
    good = torch.cat([x_nD.isfinite().all(1) & x_nD.any(1) for x_nD in parts])
    if not good.all():
        shape = (int(good.sum()), x_AD.shape[1])
        kept = zip(parts, good.split(ROWS_PER_CHUNK), strict=True)
        write_rows(target, shape, (x_nD[good_n].numpy() for x_nD, good_n in kept))


def encode_triangle(
    folder: str | Path,
    centers_KD: Tensor,
    *,
    device: str | torch.device = 'cpu',
    progress: Callable[[Iterable], Iterable] = iter,
) -> dict[str, np.ndarray]:
    """Write ``triangle.npy``, float32 (A, K), and the centers beside it; each whole or not at all.

    The :func:`~mmcoke.clustering.triangle` encoding of the L2-normalized pooled features. If it is
    there already, by the same centers, it is not made again. Rows of images that were left out are
    NaN; those of features that are 0 are 0.

    Args:
        folder: of complete features; see :func:`~mmcoke.features.store.extract_to_disk`.
        centers_KD: unit vectors (K, D), such as those of :func:`cluster_pooled`.
        device: where to compute.
        progress: wraps the iterable of chunks.

    Returns:
        What :func:`~mmcoke.features.store.open_features` returns.

    Raises:
        ValueError: if there are no complete features, or the centers are not as wide.
    """
    folder = Path(folder)
    open_features(folder)
    if is_main_process():
        name, meta = digest([centers_KD]), read_meta(folder)
        content = dict(centers=centers_KD.clone(), network=meta['network'])
        content['checkpoint'] = meta['origin'].get('checkpoint')
        write_whole(folder / CENTERS, lambda path: save_torch(content, path))
        if meta.get('encodings', {}).get(TRIANGLE) != name:
            x_AD = memory_mapped(str(folder / f'{SOURCE}.npy'))
            codes = encoded_parts(x_AD, centers_KD.to(device), progress)
            write_rows(folder / f'{TRIANGLE}.npy', (len(x_AD), len(centers_KD)), codes)
            note_encoding(folder, TRIANGLE, name)
    barrier()
    return open_features(folder)


def encoded_parts(
    x_AD: Tensor, centers_KD: Tensor, progress: Callable[[Iterable], Iterable]
) -> Iterator[np.ndarray]:
    """Codes of chunks of features, which lie on disk."""
    for start in progress(range(0, len(x_AD), ROWS_PER_CHUNK)):
        x_nD = unit_rows(x_AD[start : start + ROWS_PER_CHUNK].to(centers_KD.device))
        yield triangle(x_nD, centers_KD).cpu().numpy()
