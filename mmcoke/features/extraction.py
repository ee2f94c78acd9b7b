"""Frozen features of whole data sets."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from mmengine.dataset import BaseDataset
from mmengine.dist import all_gather, all_gather_object, get_dist_info, get_world_size
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.data import DataLoader, Dataset

from .unreadable import Noted, Unlabelled, Unreadable, check_readable, collate

CHUNK_SIZE = 1 << 13


@torch.no_grad()
def extract_features(
    model: nn.Module,
    dataset: BaseDataset,
    *,
    batch_size: int = 256,
    num_workers: int = 0,
    progress: Callable[[Iterable], Iterable] = iter,
) -> tuple[Tensor, Tensor]:
    """Features of all images of a data set, in its order, from a model in evaluation mode.

    Args:
        model: an algorithm with ``data_preprocessor``, ``backbone`` and ``neck``.
        dataset: its pipeline ends with ``PackInputs`` and makes one view.
        batch_size: images per forward pass; does not change the features.
        num_workers: processes that load images.
        progress: wraps the iterable of batches, such as ``rich.progress.track``.

    Returns:
        On CPU, in float32: the backbone's last feature map, averaged over space (A, C), and
        the L2-normalized projections (A, D).

    Raises:
        UnreadableImageError: if images cannot be read; it names the first of them.
    """
    options = dict(batch_size=batch_size, num_workers=num_workers, progress=progress)
    notes: list[Unreadable] = []
    rows = range(len(dataset))
    pairs = [out for _, out in run(model, pooled_and_projected, dataset, rows, notes, **options)]
    check_readable(notes, len(dataset))
    pooled, projected = (torch.cat(features) for features in zip(*pairs, strict=True))
    return pooled, projected


@torch.no_grad()
def run(
    model: nn.Module,
    forward: Callable[[nn.Module, dict], Any],
    dataset: Dataset,
    rows: Sequence[int],
    notes: list[Unreadable],
    *,
    batch_size: int,
    num_workers: int,
    progress: Callable[[Iterable], Iterable],
    labelled: bool = False,
) -> Iterator[tuple[list[int], Any]]:
    """Rows and ``forward(model, batch)`` for each batch, with the model in evaluation mode.

    Args:
        model: is in evaluation mode until the last batch.
        forward: from the model and a collated batch of the images that can be read.
        dataset: of the images.
        rows: of the data set, in order.
        notes: gets those of the images that cannot be read.
        batch_size, num_workers, progress: see :func:`extract_features`.
        labelled: whether ``forward`` needs data samples, which keeps images in memory from being
            taken as whole batches.
    """
    loader = DataLoader(
        (Noted if labelled else Unlabelled)(dataset, rows),
        batch_size,
        num_workers=num_workers,
        collate_fn=collate,
        shuffle=False,
    )
    training = model.training
    model.eval()
    try:
        for found, batch, failed in progress(loader):
            notes += failed
            if found:
                yield found, forward(model, batch)
    finally:
        model.train(training)


def pooled_and_projected(model: nn.Module, batch: dict) -> tuple[Tensor, Tensor]:
    """Both features of one collated batch."""
    maps = model.backbone(view_of(model, batch))
    projected = normalize(model.neck(maps)[-1].float(), dim=1)
    return averaged(maps[-1]).cpu(), projected.cpu()


@torch.no_grad()
def resident_features(
    network: nn.Module,
    dataset: Dataset,
    *,
    batch_size: int = 1000,
    progress: Callable[[Iterable], Iterable] = iter,
) -> tuple[Tensor, Tensor | None]:
    """As :func:`extract_features`, but they stay on the network's device, and are not normalized.

    For small images in memory, :class:`~mmcoke.datasets.InMemoryImages` on the same device: of
    these nothing waits for the host.

    Args:
        network: with ``data_preprocessor``, ``backbone`` and ``neck``, which may be None.

    Returns:
        In float32: the backbone's last feature map, averaged over space (A, C), and what the neck
        makes of it (A, D), None without a neck.
    """

    def forward(network: nn.Module, batch: dict) -> tuple[Tensor, ...]:
        maps = network.backbone(view_of(network, batch))
        neck = () if network.neck is None else (network.neck(maps)[-1].float(),)
        return averaged(maps[-1]), *neck

    notes: list[Unreadable] = []
    options = dict(batch_size=batch_size, num_workers=0, progress=progress)
    rows = range(len(dataset))
    parts = [out for _, out in run(network, forward, dataset, rows, notes, **options)]
    check_readable(notes, len(dataset))
    pooled, *projected = (torch.cat(features) for features in zip(*parts, strict=True))
    return pooled, projected[0] if projected else None


def pooled(model: nn.Module, batch: dict) -> Tensor:
    """The backbone's last feature map, averaged over space, of one collated batch (n, C)."""
    return averaged(model.backbone(view_of(model, batch))[-1]).cpu()


def averaged(x: Tensor) -> Tensor:
    """A feature map (n, C, h, w) averaged over space, in float32; one without space as it is."""
    return x.float().mean((2, 3)) if x.ndim == 4 else x.float()


def projected(model: nn.Module, batch: dict) -> Tensor:
    """Projections of one collated batch."""
    return model.project(view_of(model, batch)).float().cpu()


def view_of(model: nn.Module, batch: dict) -> Tensor:
    """The images of a collated batch, normalized and on the model's device (n, C, H, W).

    Raises:
        ValueError: if the pipeline makes several views.
    """
    inputs = model.data_preprocessor(batch, False)['inputs']
    views = [inputs] if isinstance(inputs, Tensor) else inputs
    if len(views) != 1:
        raise ValueError(
            f'Features are taken from one view per image, but the pipeline makes {len(views)}. '
            'Use a pipeline without augmentation.'
        )
    return views[0]


def check_same_classes(*datasets: Dataset) -> None:
    """ValueError if data sets name different classes, so that a label means different things."""
    named = [getattr(dataset, 'metainfo', {}).get('classes') for dataset in datasets]
    named = [tuple(classes) for classes in named if classes]
    for classes in named[1:]:
        if classes != named[0]:
            differ = sorted({*classes} ^ {*named[0]})
            raise ValueError(
                f'The data sets have {len(named[0])} and {len(classes)} classes, '
                f'{"in another order" if not differ else f"not the same: {differ[:5]} in one only"}'
                '. Labels would mean different classes. Use the same folders in both, or class '
                'names in one order (metainfo).'
            )


@torch.no_grad()
def own_features(
    model: nn.Module,
    dataset: Dataset,
    *,
    forward: Callable[[nn.Module, dict], Tensor] = projected,
    batch_size: int = 256,
    num_workers: int = 0,
    progress: Callable[[Iterable], Iterable] = iter,
    notes: list[Unreadable] | None = None,
) -> Tensor:
    """This process's block of the features of all images, not normalized, on CPU.

    Each process has ``ceil(A / processes)`` consecutive images; together they have all, once.
    Arguments as for :func:`extract_features`; all processes call it.

    Args:
        forward: from the model and a collated batch to features (n, D).
        notes: gets those of all processes' images that cannot be read, whose rows are NaN; without
            it, there may be none.

    Returns:
        float32 (A / processes, D).

    Raises:
        UnreadableImageError: on all processes, if images cannot be read, and no ``notes`` are
            taken or no image is left.
    """
    rank, world_size = get_dist_info()
    block = -(-len(dataset) // world_size)
    own = range(min(rank * block, len(dataset)), min((rank + 1) * block, len(dataset)))
    own_notes: list[Unreadable] = []
    options = dict(batch_size=batch_size, num_workers=num_workers, progress=progress)
    parts = list(run(model, forward, dataset, own, own_notes, **options))
    all_notes = [note for part in all_gather_object(own_notes) for note in part]
    if notes is None:
        check_readable(all_notes, len(dataset))
    else:
        notes += all_notes
    # A process without images of its own still says how wide the features are.
    widths = all_gather_object(parts[0][1].shape[1] if parts else 0)
    if not max(widths):
        check_readable(all_notes, len(dataset))
    x_nD = torch.full((len(own), max(widths)), torch.nan)
    for rows, features in parts:
        x_nD[torch.tensor(rows) - own.start] = features
    return x_nD


def gather_rows(x_nD: Tensor, num_rows: int, keep: bool = True) -> Tensor | None:
    """Put the blocks of :func:`own_features` together, in chunks of bounded size.

    All processes call it.

    Args:
        x_nD: the own block (n, D).
        num_rows: A, of all blocks.
        keep: whether this process wants the result.

    Returns:
        (A, D), or None if it is not wanted.
    """
    world_size = get_world_size()
    if world_size == 1:
        return x_nD
    block = -(-num_rows // world_size)
    x_AD = x_nD.new_empty(block * world_size, x_nD.shape[1]) if keep else None
    for first in range(0, block, CHUNK_SIZE):
        chunk = x_nD[first : first + CHUNK_SIZE]
        length = min(CHUNK_SIZE, block - first)
        padding = chunk.new_zeros(length - len(chunk), chunk.shape[1])
        parts = all_gather(torch.cat([chunk, padding]))
        for owner, part in enumerate(parts if keep else []):
            x_AD[owner * block + first :][:length] = part
    return x_AD[:num_rows] if keep else None
