"""Lists of the few images whose labels semi-supervised benchmarks may use."""

from pathlib import Path

import numpy as np

from .folder import CustomDataset
from .listing import read_lines, write_list


def write_label_list(
    root: str | Path, percent: float, *, names: str | Path | None = None, seed: int = 0
) -> tuple[Path, int]:
    """Write ``ROOT/meta/train_{percent}percent.txt`` for images in ``ROOT/train/CLASS/``.

    Its lines are ``CLASS/IMAGE LABEL``, with labels in the order of the classes' names.

    Args:
        percent: of the images of each class, in (0, 100], at least one image.
        names: file with one image name (``n01440764_10043.JPEG``) per line, such as SimCLR's
            ``imagenet_subsets/1percent.txt``, which published figures use; None to draw the images.
        seed: of the drawing.

    Returns:
        The file, and the number of its lines.

    Raises:
        ValueError: if there are no images, ``percent`` is out of range, or a named image is absent.
    """
    if not 0 < percent <= 100:
        raise ValueError(f'percent must be in (0, 100], but is {percent}.')
    records = CustomDataset(
        data_root=str(root), data_prefix='train', lazy_init=True
    ).load_data_list()
    folder = Path(root) / 'train'
    images = {
        Path(record['img_path']).relative_to(folder).as_posix(): record['gt_label']
        for record in records
    }
    if names is None:
        chosen = draw(images, percent / 100, seed)
    else:
        chosen = find(images, read_lines(names), names)
    path = Path(root) / 'meta' / f'train_{percent:g}percent.txt'
    write_list(path, [(image, images[image]) for image in chosen])
    return path, len(chosen)


def draw(images: dict[str, int], share: float, seed: int) -> list[str]:
    """The same share of the images of each label, drawn without replacement, in order."""
    random = np.random.default_rng(seed)
    names, labels = np.array(list(images)), np.array(list(images.values()))
    chosen = []
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        size = max(1, round(share * len(own)))
        chosen += sorted(random.choice(own, size, replace=False))
    return names[chosen].tolist()


def find(images: dict[str, int], names: list[str], source: str | Path) -> list[str]:
    """The images with these names, below whatever class."""
    paths = {image.rsplit('/', 1)[-1]: image for image in images}
    missing = [name for name in names if name not in paths]
    if missing:
        raise ValueError(
            f'{len(missing)} of {len(names)} images that {source} names are not there, such as '
            f'{missing[0]}. Complete the training images; for those that you have, draw a share '
            'instead.'
        )
    return [paths[name] for name in names]
