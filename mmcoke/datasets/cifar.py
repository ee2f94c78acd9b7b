"""CIFAR-100 by its 20 groups of classes."""

import numpy as np
from mmpretrain.datasets import CIFAR100

from mmcoke.registry import DATASETS

GROUPS = {
    'aquatic mammals': ('beaver', 'dolphin', 'otter', 'seal', 'whale'),
    'fish': ('aquarium_fish', 'flatfish', 'ray', 'shark', 'trout'),
    'flowers': ('orchid', 'poppy', 'rose', 'sunflower', 'tulip'),
    'food containers': ('bottle', 'bowl', 'can', 'cup', 'plate'),
    'fruit and vegetables': ('apple', 'mushroom', 'orange', 'pear', 'sweet_pepper'),
    'household electrical devices': ('clock', 'keyboard', 'lamp', 'telephone', 'television'),
    'household furniture': ('bed', 'chair', 'couch', 'table', 'wardrobe'),
    'insects': ('bee', 'beetle', 'butterfly', 'caterpillar', 'cockroach'),
    'large carnivores': ('bear', 'leopard', 'lion', 'tiger', 'wolf'),
    'large man-made outdoor things': ('bridge', 'castle', 'house', 'road', 'skyscraper'),
    'large natural outdoor scenes': ('cloud', 'forest', 'mountain', 'plain', 'sea'),
    'large omnivores and herbivores': ('camel', 'cattle', 'chimpanzee', 'elephant', 'kangaroo'),
    'medium-sized mammals': ('fox', 'porcupine', 'possum', 'raccoon', 'skunk'),
    'non-insect invertebrates': ('crab', 'lobster', 'snail', 'spider', 'worm'),
    'people': ('baby', 'boy', 'girl', 'man', 'woman'),
    'reptiles': ('crocodile', 'dinosaur', 'lizard', 'snake', 'turtle'),
    'small mammals': ('hamster', 'mouse', 'rabbit', 'shrew', 'squirrel'),
    'trees': ('maple_tree', 'oak_tree', 'palm_tree', 'pine_tree', 'willow_tree'),
    'vehicles 1': ('bicycle', 'bus', 'motorcycle', 'pickup_truck', 'train'),
    'vehicles 2': ('lawn_mower', 'rocket', 'streetcar', 'tank', 'tractor'),
}
"""Classes of each group (Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009,
table 1), by the names of the files, and in the order of their coarse labels."""

FINE = sorted(name for names in GROUPS.values() for name in names)
"""The 100 classes in the order of their labels."""

COARSE_LABEL = np.array([[name in names for names in GROUPS.values()] for name in FINE]).argmax(1)
"""Group of each of the 100 classes, (100,)."""


@DATASETS.register_module()
class CIFAR100Coarse(CIFAR100):
    """CIFAR-100 with the 20 groups as labels: what the literature calls CIFAR-100-20.

    Args:
        see mmpretrain's ``CIFAR100``, which downloads the files where they are absent.

    Raises:
        ValueError: if the files are absent or damaged, and cannot be downloaded.
    """

    METAINFO = dict(classes=tuple(GROUPS))

    def load_data_list(self) -> list[dict]:
        """The records of ``CIFAR100``, ``gt_label`` in 0 ... 19."""
        try:
            records = super().load_data_list()
        except (AssertionError, OSError, RuntimeError) as error:
            root = self.data_prefix['root']
            raise ValueError(
                f'There is no complete CIFAR-100 in {root or "."} ({" ".join(str(error).split())}) '
                f'Unpack {self.filename} of www.cs.toronto.edu/~kriz/cifar.html there.'
            ) from None
        for record in records:
            record['gt_label'] = int(COARSE_LABEL[record['gt_label']])
        return records
