"""The official development kit of VOC 2007."""

from collections.abc import Iterable
from pathlib import Path

from mmcoke.datasets import voc
from mmcoke.messages import some

from .report import DataError, Report


def check_voc07(report: Report) -> None:
    """The official development kit, named by its folder ``VOC2007`` or the one above."""
    found = [path for path in (report.root, report.root / 'VOC2007') if voc_lists(path).is_dir()]
    if not found:
        what = f'Neither {report.root} nor a folder VOC2007 in it has a folder ImageSets/Main.'
        raise DataError(what, voc.how_to_get(voc.NUM_IMAGES))
    for name, num_images in voc.NUM_IMAGES.items():
        report.problems += voc_problems(report, found[0], name, num_images)


def voc_lists(folder: Path) -> Path:
    """Where the lists of the devkit are."""
    return folder / 'ImageSets/Main'


def voc_problems(report: Report, folder: Path, name: str, num_images: int) -> Iterable[DataError]:
    """What is wrong with a part of the devkit; what is right goes to the report."""
    remedy = voc.how_to_get([name])
    if found := voc.split_problems(folder, name):
        yield from (DataError(what, remedy) for what in found)
        return
    paths, targets = voc.read_split(folder, name)
    report.images += paths
    num_labels = (targets == 1).sum()
    report.facts.append(
        f'{name}: {len(paths):,} images of {len(voc.CLASSES)} classes, {num_labels:,} labels'
    )
    if len(paths) != num_images:
        yield DataError(f'{name} has {len(paths):,} images instead of {num_images:,}.', remedy)
    annotations = {path.stem for path in (folder / 'Annotations').glob('*.xml')}
    if absent := [path.stem for path in map(Path, paths) if path.stem not in annotations]:
        yield DataError(
            f'{len(absent):,} images of {name} have no XML file in Annotations: {some(absent)}.',
            f'{remedy} Only detection needs them.',
        )
