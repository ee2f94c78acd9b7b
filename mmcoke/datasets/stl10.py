"""STL-10 as published, in binary files.

torchvision reads it, too, but all 2.8 GB of it for any of its parts, each time with their MD5 sums.
"""

from pathlib import Path

import numpy as np
from mmpretrain.datasets import BaseDataset

from mmcoke.registry import DATASETS

CLASSES = (
    'airplane', 'bird', 'car', 'cat', 'deer', 'dog', 'horse', 'monkey', 'ship', 'truck',
)  # fmt: skip
NUM_IMAGES = dict(train=5_000, test=8_000, unlabeled=100_000)
"""As published (Coates, Lee, Ng, AISTATS 2011)."""

FOLDER = 'stl10_binary'
SHAPE = (3, 96, 96)
"""Of an image in a file: channels, columns, rows."""

HOW_TO_GET = 'Unpack stl10_binary.tar.gz of cs.stanford.edu/~acoates/stl10 again.'


@DATASETS.register_module()
class STL10(BaseDataset):
    """Images of 96 x 96 pixels: 13,000 of 10 classes, and 100,000 without labels.

    Pixels stay on the disk until they are used.

    Args:
        data_root: folder that has ``stl10_binary``.
        split: ``'train'``, ``'test'`` or ``'unlabeled'``, or several of them:
            ``'train+unlabeled'``. Records of the last have no ``gt_label``.
        pipeline, metainfo, indices, test_mode: see mmengine's ``BaseDataset``. The pipeline gets
            ``img``, in RGB, and ``gt_label`` where there is one.

    Raises:
        ValueError: if there is no such split, or a file is absent, cut off or of another kind.
    """

    METAINFO = dict(classes=CLASSES)

    def __init__(self, data_root: str, split: str = 'train', **kwargs) -> None:
        self.splits = split.split('+')
        if unknown := set(self.splits) - set(NUM_IMAGES):
            raise ValueError(
                f"split must be 'train', 'test', 'unlabeled', or several of them with a + between "
                f'them, but {sorted(unknown)} is none of them.'
            )
        # The arrays are on the disk: to serialize them for workers would read them.
        super().__init__(ann_file='', data_root=data_root, serialize_data=False, **kwargs)

    def load_data_list(self) -> list[dict]:
        """One record per image, split by split."""
        return [record for split in self.splits for record in read_split(self.data_root, split)]


def read_split(root: str | Path, split: str) -> list[dict]:
    """Records of a split: images are views into its file; see :class:`STL10`."""
    folder, num_images = Path(root) / FOLDER, NUM_IMAGES[split]
    images = read_bytes(folder / f'{split}_X.bin', num_images * int(np.prod(SHAPE)))
    images = images.reshape(num_images, *SHAPE).transpose(0, 3, 2, 1)
    records = [dict(img=image, img_shape=image.shape[:2]) for image in images]
    if split == 'unlabeled':
        return records
    labels = read_bytes(folder / f'{split}_y.bin', num_images)
    if not (labels.min() >= 1 and labels.max() <= len(CLASSES)):
        raise ValueError(
            f'{folder / f"{split}_y.bin"} has labels {labels.min()} ... {labels.max()} instead of '
            f'1 ... {len(CLASSES)}. {HOW_TO_GET}'
        )
    return [
        dict(record, gt_label=int(label) - 1) for record, label in zip(records, labels, strict=True)
    ]


def read_bytes(path: Path, num_bytes: int) -> np.ndarray:
    """A file of a certain size, uint8, mapped into memory.

    Raises:
        ValueError: if it is absent, of another size, or cannot be read.
    """
    try:
        found = path.stat().st_size
        if found == num_bytes:
            return np.asarray(np.memmap(path, np.uint8, 'r'))
        problem = f'has {found:,} bytes instead of {num_bytes:,}'
    except FileNotFoundError:
        problem = 'is absent'
    except OSError as error:
        problem = f'cannot be read ({error.strerror})'
    raise ValueError(f'{path} {problem}. {HOW_TO_GET}')
