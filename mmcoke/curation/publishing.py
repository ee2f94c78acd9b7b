"""All files of a sort, staged, and its summary."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from mmcoke import __version__
from mmcoke.features.unreadable import UNREADABLE
from mmcoke.files import plain, save_torch, write_text

from . import adding, writers
from .names import Names
from .out_folder import SUMMARY, OutFolder
from .page import write_page
from .result import Sorted

Bar = Callable[[str], Callable[[Iterable], Iterable]]


def write_results(place: OutFolder, found: Sorted, settings: dict, bar: Bar) -> None:
    """Write all results into the staging folder.

    Args:
        place: the folder of the results.
        found: what they tell.
        settings: of the sort.
        bar: from the name of a stage to what wraps its iterable.
    """
    staging = place.stage()
    notes = write_notes(place, staging)
    writers.write_images_csv(found, staging / 'images.csv')
    writers.write_images_parquet(found, staging / 'images.parquet')
    writers.write_clusters_csv(found, staging / 'clusters.csv')
    writers.write_label_studio(found, staging)
    left_out = writers.write_fiftyone(found, staging)
    facts = summary_of(found, settings) | notes | dict(not_in_fiftyone=left_out)
    if settings['folders']:
        make_folders(found, settings['folders'], staging, place.path, bar('Folders'))
    write_page(found, staging, place.path, facts, bar('Page'))
    stage_work(place, found, settings, staging)
    write_text(staging / SUMMARY, json.dumps(plain(facts), indent=2) + '\n')


def make_folders(
    found: Sorted, kind: str, staging: Path, out: Path, progress: Callable[[Iterable], Iterable]
) -> None:
    """Folders of the clusters, with links or copies."""
    if kind == 'copy':
        writers.check_space(found, out)
    place = writers.copy if kind == 'copy' else writers.link
    writers.say_gone(writers.write_folders(found, staging, place, progress))


def stage_work(place: OutFolder, found: Sorted, settings: dict, staging: Path) -> None:
    """Stage what a later ``--add`` starts from."""
    content = dict(label=found.label, similarity=found.similarity, margin=found.margin)
    content |= dict(rank=found.rank, centers=found.centers, num_moved=found.facts['num_moved'])
    content |= dict(model=found.model)
    levels = [dict(parent=level.parent, centers=level.centers) for level in found.coarser]
    work = staging / place.work.name
    save_torch(content | dict(levels=levels), work / adding.FOUND)
    write_text(work / adding.SETTINGS, json.dumps(settings, indent=2) + '\n')
    if place.is_adding:
        adding.stage_vectors(place, staging)


def write_notes(place: OutFolder, staging: Path) -> dict:
    """Stage the lists of images that cannot be read, and that are gone; count them."""
    work = place.adding / 'new' if place.is_adding else place.work
    counts = dict(unreadable=0, removed=0)
    if (work / UNREADABLE).exists():
        content = (work / UNREADABLE).read_bytes()
        (staging / UNREADABLE).write_bytes(content)
        counts['unreadable'] = content.count(b'\n')
    lines = (place.path / 'removed.txt').read_bytes() if removed_before(place) else b''
    if place.is_adding:
        names = Names(place.adding / adding.REMOVED)
        lines += b''.join(encoded_line(name) for name in names)
    if lines:
        (staging / 'removed.txt').write_bytes(lines)
    return counts | dict(removed=lines.count(b'\n'))


def removed_before(place: OutFolder) -> bool:
    return place.is_adding and (place.path / 'removed.txt').exists()


def encoded_line(name: str) -> bytes:
    """A name as a line, as the file system spells it."""
    return (name.replace('\n', '\\n') + '\n').encode('utf-8', 'surrogateescape')


def summary_of(found: Sorted, settings: dict) -> dict:
    """What ``summary.json`` says, without what is left out."""
    sizes, groups = found.sizes, found.groups()
    said = {key: value for key, value in settings.items() if key not in ('root', 'network')}
    return dict(
        version=__version__,
        images=writers.utf8(found.root),
        num_images=len(found),
        num_clusters=found.num_clusters,
        levels=[found.num_clusters, *(len(level.centers) for level in found.coarser)],
        sizes=dict(
            least=int(sizes.min()),
            median=float(sizes.double().quantile(0.5)),
            most=int(sizes.max()),
        ),
        mean_similarity=round(float(found.similarity.double().mean()), 6),
        num_moved=found.facts['num_moved'],
        duplicates=dict(
            threshold=settings['duplicates'],
            num_groups=len(groups),
            num_images=sum(map(len, groups)),
            num_to_drop=int((~found.keep).sum()),
        ),
        num_picks=len(found.picks),
        settings=said,
    )
