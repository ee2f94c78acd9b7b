"""Any folder of images."""

from collections import Counter
from collections.abc import Sequence

from mmcoke.datasets.listing import Listing, list_images
from mmcoke.datasets.reading import EXTENSIONS
from mmcoke.messages import some

from .report import DataError, Report

SPLITS = ('test', 'train', 'val')


def check_folder(report: Report) -> None:
    """Images in class folders, with or without ``train`` and ``val`` above them, or unlabelled."""
    folders = [report.root / name for name in SPLITS if (report.root / name).is_dir()]
    classes = {}
    for folder in folders or [report.root]:
        listing = list_images(folder)
        if not listing.images:
            raise DataError(
                f'There is no image in {folder} or the folders below it.',
                f'Files count whose names end in {", ".join(EXTENSIONS)}. {listing.note()}'.strip(),
            )
        report.images += [f'{folder}/{name}' for name in listing.images]
        classes[folder.name] = listing.classes
        describe_folder(report, folder.name, listing)
    check_same_classes(report, classes)


def describe_folder(report: Report, name: str, listing: Listing) -> None:
    """Facts about a folder of images."""
    classes = listing.classes
    counts = Counter(image.split('/', 1)[0] for image in listing.by_class).values()
    kind = ', without labels'
    if classes:
        smallest = f'{min(counts):,} to {max(counts):,} in each'
        kind = f' in {len(classes):,} class folders, {smallest}'
    report.facts.append(f'{name}: {len(listing.images):,} images{kind}')
    if classes and (beside := len(listing.images) - sum(counts)):
        report.facts.append(
            f'{name}: {beside:,} images beside the class folders, seen without labels only'
        )
    if listing.empty:
        report.facts.append(
            f'{name}: {len(listing.empty):,} folders without an image, which are no classes: '
            f'{some(listing.empty)}'
        )
    if note := listing.note():
        report.facts.append(note.rstrip('.'))


def check_same_classes(report: Report, classes: dict[str, Sequence[str]]) -> None:
    """All splits need the same class folders, or their labels differ."""
    splits = {name: found for name, found in classes.items() if found}
    everything = sorted({name for found in splits.values() for name in found})
    for split, found in splits.items():
        if missing := [name for name in everything if name not in found]:
            report.problems.append(
                DataError(
                    f'{split} lacks {len(missing):,} class folders that another split has: '
                    f'{some(missing)}. The labels after them would differ between the splits.',
                    'Complete the split, or remove these classes from the others.',
                )
            )
