"""Whether a data set is there, complete and readable, and what to do if not.

The expected numbers are those of the data sets' own documentation: ImageNet (Russakovsky et al.,
IJCV 2015), Places205 (Zhou et al., NIPS 2014), the development kits of Places365 and VOC 2007, the
page of the iNaturalist 2018 competition, CIFAR (Krizhevsky, 2009), and STL-10 (Coates, 2011).
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from mmcoke.files import write_text
from mmcoke.messages import shown, some

from .cifar import check_cifar
from .folder import check_folder
from .listed import check_imagenet, check_named
from .readable import find_unreadable
from .report import DOWNLOADS, DataError, Report
from .stl10 import check_stl10
from .voc07 import check_voc07

__all__ = ['CHECKS', 'DataError', 'Report', 'check_data']

CHECKS: dict[str, Callable[[Report], None]] = dict(
    imagenet=check_imagenet,
    voc07=check_voc07,
    places205=check_named,
    places365=check_named,
    inat18=check_named,
    cifar=check_cifar,
    stl10=check_stl10,
    folder=check_folder,
)
"""The check of each data set."""


def check_data(
    name: str,
    root: str | Path,
    *,
    decode: bool = True,
    num_workers: int = 0,
    notes: str | Path = 'work_dirs/check_data',
    progress: Callable[[Iterable], Iterable] = iter,
) -> Report:
    """Check a data set, and write the list files that are missing where it is complete.

    Args:
        name: one of :data:`CHECKS`.
        root: its folder.
        decode: whether to decode all images, too.
        num_workers: processes that decode; 0 for this one.
        notes: folder for ``NAME.json``, from which an interrupted call goes on to decode, and for
            ``NAME_unreadable.txt``, the images that cannot be decoded and why.
        progress: wraps the iterable of batches to decode, such as ``rich.progress.track``.

    Returns:
        Facts and problems.

    Raises:
        ValueError: if there is no check of this name.
    """
    if name not in CHECKS:
        raise ValueError(f'There is no check of {name!r}, only of {", ".join(CHECKS)}.')
    report = Report(name, Path(root))
    try:
        if not report.root.is_dir():
            raise DataError(f'There is no folder {root}.', DOWNLOADS.get(name, 'Check the path.'))
        CHECKS[name](report)
    except DataError as error:
        report.problems.append(error)
    if decode and report.images:
        check_readable(report, Path(notes), num_workers=num_workers, progress=progress)
    return report


def check_readable(report: Report, notes: Path, **options) -> None:
    """Decode the images of a report; see :func:`check_data`."""
    unreadable = find_unreadable(report.images, notes / f'{report.name}.json', **options)
    report.facts.append(f'{len(report.images) - len(unreadable):,} images can be decoded')
    listing = notes / f'{report.name}_unreadable.txt'
    listing.unlink(missing_ok=True)
    if unreadable:
        lines = [f'{shown(path)}: {reason}' for path, reason in unreadable.items()]
        write_text(listing, '\n'.join(lines) + '\n')
        report.problems.append(
            DataError(
                f'{len(unreadable):,} images cannot be decoded: {some(lines)}.',
                f'Unpack or download them again; {listing} names all. To train without them, '
                'remove them and the list files in meta/, or add --skip-unreadable to the command.',
            )
        )
