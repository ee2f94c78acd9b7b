"""STL-10 as published."""

from torchvision.datasets import STL10
from torchvision.datasets.utils import check_integrity

from mmcoke.datasets.stl10 import FOLDER, HOW_TO_GET

from .report import DOWNLOADS, DataError, Report


def check_stl10(report: Report) -> None:
    """The five files of ``stl10_binary``, by their MD5 sums."""
    folder = report.root / FOLDER
    if not folder.is_dir():
        raise DataError(f'There is no {FOLDER} in {report.root}.', DOWNLOADS['stl10'])
    files = [*STL10.train_list, *STL10.test_list]
    for name, md5 in files:
        if not check_integrity(folder / name, md5):
            state = 'damaged' if (folder / name).exists() else 'absent'
            report.problems.append(DataError(f'{folder / name} is {state}.', HOW_TO_GET))
    report.facts.append(f'{FOLDER}: {len(files)} files compared with their MD5 sums')
