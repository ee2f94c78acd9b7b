"""What a check of a data set found, in words; where data sets come from."""

from dataclasses import dataclass, field
from pathlib import Path

from mmcoke.datasets import voc

DOWNLOADS = dict(
    imagenet='Get ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from image-net.org; train/ '
    'and val/ have a folder per class (n01440764 ...).',
    voc07=voc.how_to_get(voc.NUM_IMAGES),
    places205='The official links are dead. From a copy, unpack imagesPlaces205_resize.tar.gz '
    '(data/vision/torralba/deeplearning/images256/) and trainvalsplit_places205.tar.gz into the '
    'folder; or use Places365: check it by the name places365, and take its configs.',
    places365='Unpack places365standard_easyformat.tar of places2.csail.mit.edu/download.html; the '
    'folder to name is its places365_standard, with train/ and val/.',
    inat18='Unpack train_val2018.tar.gz, train2018.json.tar.gz and val2018.json.tar.gz of '
    'github.com/visipedia/inat_comp (2018) into the folder.',
    cifar='Unpack cifar-10-python.tar.gz (or cifar-100-python.tar.gz) of '
    'www.cs.toronto.edu/~kriz/cifar.html into the folder; or write cifar10_train.npz and '
    'cifar10_test.npz with x (n, 32, 32, 3), y and classes.',
    stl10='Unpack stl10_binary.tar.gz of cs.stanford.edu/~acoates/stl10 into the folder.',
)
"""Where data sets come from, and what to unpack where."""


class DataError(ValueError):
    """Something wrong with a data set.

    Args:
        what: is wrong, as a sentence.
        remedy: what the user should do.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f'{what} {remedy}')
        self.what, self.remedy = what, remedy


@dataclass
class Report:
    """What a check found.

    Attributes:
        name, root: of the data set.
        facts: what is there, and which files were written.
        problems: what is wrong. If there are none, the data set is complete.
        images: the files that can be decoded one by one.
    """

    name: str
    root: Path
    facts: list[str] = field(default_factory=list)
    problems: list[DataError] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
