"""A folder of photos, sorted: vectors, clusters, hierarchy, duplicates, picks, files."""

import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import barrier, broadcast_object_list, is_main_process
from mmengine.logging import print_log
from rich.progress import track
from torch import Tensor

from mmcoke import zoo
from mmcoke.clustering.dec import DecResult, assign_dec, dec_cluster
from mmcoke.clustering.streaming_kmeans import StreamResult, assign_stream, stream_kmeans
from mmcoke.datasets import UnreadableImageError
from mmcoke.features.extractor import FeatureExtractor
from mmcoke.files import read_checkpoint, save_torch, write_whole
from mmcoke.messages import shown

from .adding import (
    FOUND,
    changes,
    check_width,
    combined,
    listed_in,
    new_vectors,
    read_added,
    write_changes,
)
from .alike import most_alike, typical_rows
from .duplicates import NO_GROUP, kept, near_duplicates
from .hierarchy import coarser_levels, level_sizes
from .names import Names, write_names
from .out_folder import OutFolder
from .picks import coverage_picks
from .publishing import write_results
from .result import Sorted
from .sizes import image_sizes, warn_of_small_network
from .vectors import (
    KEPT,
    LISTED,
    VECTORS,
    Paths,
    check_given,
    extract,
    image_names,
    open_vectors,
)

DEFAULT_MODEL = 'coke_r50_8xb64-mcrop_in1k'
"""The best of the zoo on ImageNet-1k."""

DEFAULT_THRESHOLD = 0.9
"""See docs/sort.md for what it finds."""

MOST_QUERIES, NUM_ALIKE = 60, 8
"""Pictures like this one: of so many, so many each."""

SMALL, PASSES_OF_SMALL, PASSES = 20_000, 10, 3
"""Up to so many images more passes take seconds, and find better clusters."""

DEFAULTS = dict(
    model=None,
    config=None,
    checkpoint=None,
    features=None,
    paths=None,
    size=None,
    method='kmeans',
    num_clusters='auto',
    levels=1,
    min_size=None,
    seed=0,
    duplicates=DEFAULT_THRESHOLD,
    pick=0,
    queries=0,
    folders=None,
    network=None,
)
"""What a sort is begun with, where nothing is said."""

METHODS = ('kmeans', 'dec')

FREE = ('duplicates', 'pick', 'queries', 'folders', 'features', 'paths')
"""Settings that may change when images are added."""

SECONDS_PER_SAVE = 30.0
"""So much work of the clustering is lost at most when a process is killed."""

STATE, CLUSTERS = 'state.pth', 'clusters.pth'


@dataclass(frozen=True)
class Machine:
    """What does not change results: how much at a time, where, and whether bars are shown."""

    batch_size: int = 64
    num_workers: int = 0
    device: torch.device | str | None = None
    progress: bool = True

    def bar(self, what: str) -> Callable[[Iterable], Iterable]:
        """Wraps an iterable in a bar with the time left, on the main process."""
        return partial(track, description=what) if self.progress and is_main_process() else iter


def sort(
    folder: str | Path | None = None,
    out: str | Path = 'sorted',
    *,
    model: str | None = None,
    config: str | None = None,
    checkpoint: str | None = None,
    features: str | None = None,
    paths: str | None = None,
    size: int | None = None,
    method: str | None = None,
    num_clusters: int | str | None = None,
    levels: int | None = None,
    min_size: int | None = None,
    seed: int | None = None,
    duplicates: float | None = None,
    pick: int | None = None,
    queries: int | None = None,
    link: bool = False,
    copy: bool = False,
    add: bool = False,
    resume: bool = False,
    **machine,
) -> dict:
    """Sort a folder of images: clusters, near duplicates, what to look at first.

    What it writes into ``out`` is described in docs/sort.md. With torch.distributed initialized all
    processes call it, with the same arguments. None stands for the default, or with ``add`` or
    ``resume`` for what the sort was begun with.

    Args:
        folder: of the images; with ``features``, what relative ``paths`` are below (here).
        out: folder of the results; a new one, but for ``add`` and ``resume``.
        model: of the zoo (:data:`DEFAULT_MODEL`).
        config, checkpoint: of a network, instead.
        features: ``.npy`` file of vectors, float16 or float32 (A, D), instead of a network.
        paths: text file with the path of the image of each, a line each.
        size: side of the images for the network.
        method: 'kmeans', the streaming one with CoKe's assignment; or 'dec', deep embedded
            clustering, see :func:`~mmcoke.clustering.dec_cluster`.
        num_clusters: K; 'auto': the square root of A, from 2 to 1,000.
        levels: of the hierarchy, the finest included.
        min_size: least size of a cluster (a tenth of A / K, at least 1).
        seed: of all that is drawn.
        duplicates: least cosine similarity of near duplicates; 0 for none to be looked for.
        pick: how many images to pick that cover all.
        queries: of how many images, the most typical ones of clusters, the page shows those that
            are most like them; at most 60.
        link, copy: make a folder per cluster with links to, or copies of, its images.
        add: images that are new in the folder to a complete result.
        resume: go on with a sort that was stopped.
        **machine: ``batch_size``, ``num_workers``, ``device`` and ``progress``, whether to show
            bars; they do not change results.

    Returns:
        The content of ``summary.json``.

    Raises:
        OSError: if a file cannot be opened or written, or a model not be downloaded.
        ValueError: if arguments do not go together or with what is in ``out``; if there are no
            images, or too few for so many clusters.
    """
    folders = 'link' if link else 'copy' if copy else None
    given = dict(model=model, config=config, checkpoint=checkpoint, features=features, paths=paths)
    given |= dict(size=size, method=method, num_clusters=num_clusters, levels=levels)
    given |= dict(min_size=min_size, seed=seed)
    given |= dict(duplicates=duplicates, pick=pick, queries=queries, folders=folders)
    check_arguments(given, link and copy)
    given = {name: absolute(name, value) for name, value in given.items() if value is not None}
    place, options = OutFolder(os.path.abspath(os.path.expanduser(out))), Machine(**machine)
    lock = place.lock() if is_main_process() else nullcontext()
    with lock, forgetting(place.forget_empty, Exception):
        settings = shared(lambda: begin(place, folder, given, add, resume))
        if settings is not None:
            # What is refused now would be refused again.
            with forgetting(place.forget_adding, ValueError):
                work_through(place, settings, options)
    return place.summary()


@contextmanager
def forgetting(forget: Callable[[], None], kind: type[Exception]) -> Iterator[None]:
    """Call a function on the main process if an error of a kind ends what is within."""
    try:
        yield
    except kind:
        if is_main_process():
            forget()
        raise


def shared(function: Callable[[], Any]) -> Any:
    """What a function returns on the main process, on all."""
    found = [function() if is_main_process() else None]
    broadcast_object_list(found)
    return found[0]


# ---- what is asked for


def check_arguments(given: dict, both: bool) -> None:
    """ValueError if arguments do not go together."""
    said = {name for name, value in given.items() if value is not None}
    sources = [('model',), ('config', 'checkpoint'), ('features', 'paths')]
    for source in sources:
        if 0 < len(said & set(source)) < len(source):
            raise ValueError(f'--{source[0]} needs --{source[1]}, and --{source[1]} --{source[0]}.')
    if sum(bool(said & set(source)) for source in sources) > 1:
        raise ValueError(
            'Give one of --model NAME, --config C --checkpoint F, and --features X.npy --paths P.'
        )
    if both:
        raise ValueError('Give --link or --copy, not both.')
    check_ranges(given)


def check_ranges(given: dict) -> None:
    """ValueError if a number is out of its range."""
    for name, least in dict(
        num_clusters=1, levels=1, min_size=0, pick=0, queries=0, size=1
    ).items():
        value = given[name]
        if value in (None, 'auto') and (value is None or name == 'num_clusters'):
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            option = name.replace('_', '-')
            raise ValueError(f'--{option} must be an integer of at least {least}, not {value!r}.')
    if given['method'] not in (None, *METHODS):
        raise ValueError(f'--method must be one of {", ".join(METHODS)}, not {given["method"]!r}.')
    threshold = given['duplicates']
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(
            f'--duplicates must be a cosine similarity up to 1 (0: none are looked for), not '
            f'{threshold}.'
        )


def absolute(name: str, value: Any) -> Any:
    """The value of a setting that means the same wherever the next command is typed."""
    is_file = name in ('features', 'paths') or (
        name in ('config', 'checkpoint') and os.path.exists(os.path.expanduser(value))
    )
    return os.path.abspath(os.path.expanduser(value)) if is_file else value


def begin(
    place: OutFolder, folder: str | Path | None, given: dict, add: bool, resume: bool
) -> dict | None:
    """The settings of the sort that is to go on; None if nothing is left to do.

    Raises:
        ValueError: if the folder holds something else than was asked for.
    """
    name = shown(place.path)
    if place.is_new:
        if add:
            raise ValueError(f'There is no result in {name} to add to. Sort without --add first.')
        if folder is None and 'features' not in given:
            raise ValueError('Name the folder with your images: mmcoke sort FOLDER --out DIR.')
        settings = DEFAULTS | given | dict(root=root_of(folder))
        if not (settings['config'] or settings['features']):
            settings['model'] = settings['model'] or DEFAULT_MODEL
        list_images(place.work, settings, str(place.path))
        place.write_settings(settings)
        return settings
    settings = DEFAULTS | place.settings()
    if place.is_finished:
        if not add and not resume:
            raise ValueError(
                f'{name} holds a finished sort. Add new images to it by --add, or name another '
                '--out.'
            )
        check_same(name, settings, given, FREE if add else ())
        return begin_adding(place, settings, folder, given) if add else None
    if not resume and not (add and place.is_adding):
        raise ValueError(
            f'{name} holds a sort that was stopped. Go on by --resume, or name another --out.'
        )
    settings = settings | read_added(place)
    check_same(name, settings, given, ())
    return settings


def root_of(folder: str | Path | None) -> str:
    return os.path.abspath(os.path.expanduser(folder or '.'))


def check_same(name: str, settings: dict, given: dict, free: tuple[str, ...]) -> None:
    """ValueError if settings differ from those that a sort was begun with."""
    differ = [key for key in given if key not in free and settings[key] != given[key]]
    if differ:
        said = ', '.join(f'{key} {settings[key]}, not {given[key]}' for key in differ)
        raise ValueError(
            f'{name} was begun with {said}. Leave that out of the command, or name another --out.'
        )


def list_images(work: Path, settings: dict, out: str) -> None:
    """Write the names of the images, before anything is made of them; check what can be checked."""
    if settings['features']:
        names = check_given(settings['features'], settings['paths'])
    else:
        names = image_names(settings['root'], out)
    check_numbers(len(names), settings)
    work.mkdir(parents=True, exist_ok=True)
    write_names(work / LISTED, names)


def check_numbers(num_images: int, settings: dict) -> None:
    """ValueError if there are too few images for the settings."""
    num_clusters, min_size = resolved(num_images, settings)
    if num_clusters > num_images or num_clusters * min_size > num_images:
        raise ValueError(
            f'{num_images:,} images are too few for --num-clusters {num_clusters}'
            f'{f" of at least --min-size {min_size} each" if min_size > 1 else ""}. Give fewer.'
        )
    level_sizes(num_clusters, settings['levels'])


def resolved(num_images: int, settings: dict) -> tuple[int, int]:
    """K and the least size of a cluster."""
    num_clusters = settings['num_clusters']
    if num_clusters == 'auto':
        num_clusters = min(num_images, max(2, min(1000, round(math.sqrt(num_images)))))
    min_size = settings['min_size']
    return num_clusters, max(1, num_images // (10 * num_clusters)) if min_size is None else min_size


def begin_adding(
    place: OutFolder, settings: dict, folder: str | Path | None, given: dict
) -> dict | None:
    """Note what is new and what is gone; settings of the adding, None if there is neither."""
    _, old = opened(place.work, settings)
    if given.get('features') and not settings['features']:
        raise ValueError('The result is one of a network: add without --features and --paths.')
    settings = settings | given
    if settings['features']:
        if not given.get('features'):
            raise ValueError('The result is one of given vectors: add --features and --paths.')
        found = changes(check_given(given['features'], given['paths']), old, complete=False)
    else:
        source = settings['root'] if folder is None else root_of(folder)
        names = listed_in(source, settings['root'], image_names(source, str(place.path)))
        found = changes(names, old, complete=source == settings['root'])
    if not found.new and not found.removed:
        return None
    write_changes(place, found, settings)
    return settings


# ---- the order of work


def work_through(place: OutFolder, settings: dict, machine: Machine) -> None:
    """All stages, up to results in their places; what is done already is left out."""
    if not place.is_ready:
        if place.is_adding:
            found = added(place, settings, machine)
        else:
            found = clustered(place, settings, machine)
        if is_main_process():
            finish(place, settings, found, machine)
    barrier()
    if is_main_process():
        place.publish()
    barrier()


def clustered(place: OutFolder, settings: dict, machine: Machine) -> Sorted:
    """Vectors of all images, and their clusters."""
    work = place.work
    if not (work / VECTORS).exists() and not settings['features']:
        settings['network'] = made_vectors(
            work, settings['root'], Names(work / LISTED), settings, machine
        )
        if is_main_process():
            place.write_settings(settings)
    barrier()
    x_AD, names = opened(work, settings)
    clusters = found_clusters(x_AD, work, settings, machine)
    return sorted_from(settings, names, clusters)


def added(place: OutFolder, settings: dict, machine: Machine) -> Sorted | None:
    """Vectors of the new images, assigned to the centers that there are; on the main process."""
    folder = place.adding / 'new'
    names = Names(folder / LISTED)
    if len(names) and not settings['features'] and not (folder / VECTORS).exists():
        try:
            network = made_vectors(folder, settings['root'], names, settings, machine)
        except UnreadableImageError:
            network = settings['network']  # none of them is an image
        if network != settings['network']:
            raise ValueError(
                f'{settings["model"] or settings["checkpoint"]} is not the network any more that '
                'the result was made with. Sort into another --out.'
            )
    barrier()
    new = new_vectors(place, settings['features'])
    before = read_checkpoint(place.work / FOUND)
    x_BD, x_AD = new[0], opened(place.work, place.settings())[0]
    check_width(x_AD, x_BD)
    assigned = None if x_BD is None else assign(x_BD, before, machine)
    if not is_main_process():
        return None
    old = opened(place.work, place.settings())
    return combined(place, settings, old, new, before, assigned)


def assign(x_BD: Tensor, before: dict, machine: Machine) -> tuple[Tensor, Tensor, Tensor]:
    """Label, similarity and margin of new vectors, by what a result has found."""
    options = dict(device=machine.device, progress=machine.bar('Clusters'))
    if before['model'] is not None:
        return assign_dec(x_BD, before['model'], **options)
    return assign_stream(x_BD, before['centers'], **options)


def opened(work: Path, settings: dict) -> tuple[Tensor, Names]:
    """Vectors of a sort and the names of their images."""
    if (work / VECTORS).exists():
        return open_vectors(work / VECTORS), Names(work / KEPT)
    return open_vectors(settings['features']), Names(work / LISTED)


def made_vectors(work: Path, root: str, names: Names, settings: dict, machine: Machine) -> str:
    """Extract vectors; what tells the network from others."""
    extractor = network(settings, machine)
    paths = Paths(root, names)
    if is_main_process():
        warn_of_small_network(extractor, paths, settings['model'] or settings['checkpoint'])
    return extract(extractor, paths, work, progress=machine.bar('Vectors'))


def network(settings: dict, machine: Machine) -> FeatureExtractor:
    """The network of the settings.

    Raises:
        OSError, ValueError: with the ways out, if no model was named and the default one cannot be
            had.
    """
    options = dict(size=settings['size'], device=machine.device, batch_size=machine.batch_size)
    options['num_workers'] = machine.num_workers
    if settings['config']:
        checkpoint = zoo.local_file(settings['checkpoint'])
        return FeatureExtractor(settings['config'], checkpoint, **options)
    try:
        return FeatureExtractor(settings['model'], **options)
    except zoo.DownloadError as error:
        raise zoo.DownloadError(
            f'{settings["model"]} cannot be downloaded. Give a network that you '
            'have, --config C --checkpoint F; or vectors, --features X.npy --paths paths.txt. '
            f'{str(error).splitlines()[-1]}'
        ) from error


def found_clusters(
    x_AD: Tensor, work: Path, settings: dict, machine: Machine
) -> StreamResult | DecResult:
    """Clusters of vectors; all processes call it."""
    if settings['method'] == 'dec':
        cluster, kind = dec_cluster, DecResult
    else:
        num_passes = PASSES_OF_SMALL if len(x_AD) <= SMALL else PASSES
        cluster, kind = partial(stream_kmeans, num_passes=num_passes), StreamResult
    if (work / CLUSTERS).exists():
        return kind(**read_checkpoint(work / CLUSTERS))
    num_clusters, min_size = resolved(len(x_AD), settings)
    state = read_checkpoint(work / STATE) if (work / STATE).exists() else None
    barrier()  # all have read it before it changes

    def save(state: dict) -> None:
        if is_main_process():
            write_whole(work / STATE, partial(save_torch, state))

    found = cluster(
        x_AD,
        num_clusters,
        min_size=min_size,
        seed=settings['seed'],
        device=machine.device,
        state=state,
        save=save,
        seconds_per_save=SECONDS_PER_SAVE,
        progress=machine.bar('Clusters'),
    )
    if is_main_process():
        write_whole(work / CLUSTERS, partial(save_torch, found._asdict()))
        (work / STATE).unlink(missing_ok=True)
    return found


def sorted_from(settings: dict, names: Names, clusters: StreamResult | DecResult) -> Sorted:
    """Images in clusters, before the other stages."""
    return Sorted(
        settings['root'],
        names,
        clusters.label,
        clusters.similarity,
        clusters.margin,
        clusters.centers,
        coarser=[],
        group=torch.full_like(clusters.label, NO_GROUP),
        keep=torch.ones_like(clusters.label, dtype=torch.bool),
        rank=torch.zeros_like(clusters.label),
        model=getattr(clusters, 'model', None),
        facts=dict(num_moved=clusters.num_moved),
    )


def finish(place: OutFolder, settings: dict, found: Sorted, machine: Machine) -> None:
    """Hierarchy, duplicates, picks, what is alike; then all files, staged."""
    work = place.adding if place.is_adding else place.work
    x_AD, _ = opened(work, settings)
    found.coarser = found.coarser or coarser_levels(
        found.centers, found.sizes, settings['levels'], seed=settings['seed']
    )
    if settings['duplicates']:
        find_duplicates(x_AD, found, settings['duplicates'], machine)
    if settings['pick']:
        find_picks(x_AD, found, settings, machine)
    if settings['queries']:
        asked = typical_rows(found.typical(), min(settings['queries'], MOST_QUERIES))
        found.alike = most_alike(x_AD, asked, NUM_ALIKE, progress=machine.bar('Alike'))
    write_results(place, found, settings, machine.bar)


def find_duplicates(x_AD: Tensor, found: Sorted, threshold: float, machine: Machine) -> None:
    """Groups of near duplicates, and which image of each to keep: the one with most pixels, of
    these the largest file, of these the most typical."""
    found.group = near_duplicates(
        x_AD, found.label, found.centers, threshold, progress=machine.bar('Duplicates')
    )
    grouped = (found.group != NO_GROUP).nonzero()[:, 0]
    pixels, num_bytes = torch.zeros(2, len(found.group), dtype=torch.float64)
    sizes = image_sizes(found.path(row) for row in grouped.tolist())
    for row, (num_pixels, size) in zip(grouped.tolist(), sizes, strict=True):
        pixels[row], num_bytes[row] = num_pixels, size
    found.keep = kept(found.group, pixels, num_bytes, found.similarity)
    if (share := 1 - found.keep.float().mean().item()) > 0.5:
        print_log(
            f'{share:.0%} of the images count as near duplicates of others. If they are none, '
            f'these vectors tell images hardly apart: raise --duplicates above {threshold}, or '
            'take another model.',
            logger='current',
            level=logging.WARNING,
        )


def find_picks(x_AD: Tensor, found: Sorted, settings: dict, machine: Machine) -> None:
    """Ranks of picks: those of before stay."""
    before = found.picks
    taken = found.group[before]
    free = found.keep & ~torch.isin(found.group, taken[taken != NO_GROUP])
    rows = coverage_picks(
        x_AD,
        found.label,
        found.similarity,
        found.num_clusters,
        settings['pick'] - len(before),
        allowed_A=free,
        chosen=before,
        seed=settings['seed'],
        progress=machine.bar('Picks'),
    )
    rows = torch.tensor(rows, dtype=torch.int64)
    found.rank[rows] = torch.arange(len(rows)) + len(before) + 1
