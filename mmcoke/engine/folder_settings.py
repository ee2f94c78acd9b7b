"""Settings of a training that follow from a folder of images and from the machine.

A pure function from numbers to settings with their reasons; docs/train.md has them as a table.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from mmengine.config import Config

from mmcoke.clustering.settings import check_number

from .run_length import set_epochs

MIN_IMAGES = 100
"""Fewer teach a network nothing that it would not know untrained."""

IMAGES_PER_CLUSTER = (100, 50, 25)
FEWEST, MOST = (8, 12, 16), (3000, 4000, 5000)
"""Bounds of the numbers of clusters; the upper ones are those published for ImageNet."""

MIN_RATIO = 0.4
"""The lower bound of a cluster's size, in shares of the mean size; published."""

GAP = 0.3
"""g of docs/methods/coke.md: similarity that an empty cluster makes up within an epoch."""

SMALL_SIDE = 64
"""Up to this size a network starts without reducing its images."""

CPU_SIZE, CPU_WIDTH = 64, 16
"""Of crops in pixels, and of a ResNet-18's first stage in channels."""

CPU_LENGTH, GPU_LENGTH = (32_000, 20, 200), (20_000_000, 100, 400)
"""Visits of images in all; the fewest and the most epochs."""


class Images(NamedTuple):
    """What settings need to know of the images.

    Attributes:
        number: how many.
        side: median of their shorter sides, in pixels.
    """

    number: int
    side: int


class Machine(NamedTuple):
    """What settings need to know of the machine.

    Attributes:
        has_gpu: whether torch finds one.
        num_cores: processors that this process may use.
    """

    has_gpu: bool
    num_cores: int


class Setting(NamedTuple):
    """A setting, and why it is so."""

    value: Any
    why: str


def choose_settings(
    images: Images, machine: Machine, chosen: Mapping[str, Any] | None = None
) -> dict[str, Setting]:
    """Settings of a training, in the order in which they follow from each other.

    Args:
        images: to be trained on.
        machine: that trains.
        chosen: what the user has set, by name; the rest follows from it.

    Returns:
        By name: ``num_clusters``, a list; ``batch_size``; ``dual_lr``, for this batch;
        ``image_size``, in pixels; ``stem``, 'small' (3x3, no pooling) or 'usual'; ``width`` of the
        first stage of a ResNet-18; ``epochs`` and ``warmup``; ``num_workers``; ``precision``.

    Raises:
        ValueError: if there are too few images, or a chosen number is out of its range.
    """
    chosen = {name: value for name, value in (chosen or {}).items() if value is not None}
    check_enough(images.number)
    check_chosen(chosen, images.number)
    found: dict[str, Setting] = {}
    rules = dict(
        num_clusters=clusters_for,
        batch_size=batch_for,
        dual_lr=dual_lr_for,
        image_size=size_for,
        stem=stem_for,
        width=width_for,
        epochs=epochs_for,
        warmup=warmup_for,
        num_workers=workers_for,
        precision=precision_for,
    )
    for name, rule in rules.items():
        own = name in chosen
        found[name] = Setting(chosen[name], 'as given') if own else rule(images, machine, found)
    return found


def check_enough(number: int) -> None:
    """ValueError, with what to do instead, if there are too few images."""
    if number < MIN_IMAGES:
        raise ValueError(
            f'{number} images are too few to train on: at least {MIN_IMAGES} are needed, and some '
            'hundreds to learn much. To sort so few, take a trained network: mmcoke sort FOLDER '
            '--model NAME; mmcoke zoo list names some.'
        )


def check_chosen(chosen: Mapping[str, Any], number: int) -> None:
    """ValueError if a number that the user has chosen is out of its range."""
    within = dict(
        batch_size=f'[2, {number}]', image_size='[16, inf)', epochs='[1, inf)', warmup='[0, inf)'
    )
    within |= dict(num_workers='[0, inf)', num_clusters=f'[1, {number}]')
    for name in set(chosen) & set(within):
        values = chosen[name] if isinstance(chosen[name], (list, tuple)) else [chosen[name]]
        for value in values:
            check_number(f'--{name.replace("_", "-")}', value, within[name], whole=True)


# ---- a rule each


def clusters_for(images: Images, machine: Machine, found: dict) -> Setting:
    bounds = zip(IMAGES_PER_CLUSTER, FEWEST, MOST, strict=True)
    counts = [min(max(low, round(images.number / share)), high) for share, low, high in bounds]
    shares = ', '.join(f'1/{share}' for share in IMAGES_PER_CLUSTER)
    bounds = ''.join(
        f', {words} {", ".join(f"{limit:,}" for limit in limits)}'
        for words, limits in (('at least', FEWEST), ('at most', MOST))
        if any(count == limit for count, limit in zip(counts, limits, strict=True))
    )
    return Setting(counts, f'{shares} of {images.number:,} images{bounds}')


def batch_for(images: Images, machine: Machine, found: dict) -> Setting:
    largest = 256 if machine.has_gpu else 64
    quarter = 1 << (images.number // 4).bit_length() - 1
    if quarter < largest:
        return Setting(quarter, 'a power of two, so that an epoch has 4 batches or more')
    return Setting(largest, 'usual on a GPU' if machine.has_gpu else 'usual on a CPU')


def dual_lr_for(images: Images, machine: Machine, found: dict) -> Setting:
    most, batch = max(found['num_clusters'].value), found['batch_size'].value
    rate = GAP * most * batch / (MIN_RATIO * images.number)
    # At most: one image must not move a dual by more than similarities differ.
    rate = min(rate, 0.05 * batch)
    return Setting(float(f'{rate:.3g}'), f'g K N / (γ A), with g = {GAP}, K = {most}, N = {batch}')


def size_for(images: Images, machine: Machine, found: dict) -> Setting:
    if images.side <= SMALL_SIDE:
        side = max(16, images.side // 8 * 8)
        return Setting(side, f'half of the images are {images.side} pixels or less')
    if machine.has_gpu:
        return Setting(224, 'usual for photos on a GPU')
    return Setting(CPU_SIZE, 'small crops, for a CPU')


def stem_for(images: Images, machine: Machine, found: dict) -> Setting:
    if found['image_size'].value <= SMALL_SIDE and images.side <= SMALL_SIDE:
        return Setting('small', 'of small images nothing is to be lost: 3 x 3, without pooling')
    return Setting('usual', '7 x 7 and pooling, as for photos')


def width_for(images: Images, machine: Machine, found: dict) -> Setting:
    if machine.has_gpu:
        return Setting(64, 'the whole ResNet-18')
    return Setting(CPU_WIDTH, f'a ResNet-18 with {CPU_WIDTH} instead of 64 channels, for a CPU')


def epochs_for(images: Images, machine: Machine, found: dict) -> Setting:
    visits, fewest, most = GPU_LENGTH if machine.has_gpu else CPU_LENGTH
    epochs = min(max(fewest, round(visits / images.number)), most)
    return Setting(epochs, f'{visits:,} visits of images, within {fewest} and {most} epochs')


def warmup_for(images: Images, machine: Machine, found: dict) -> Setting:
    return Setting(max(1, min(10, found['epochs'].value // 5)), 'a fifth of the epochs, at most 10')


def workers_for(images: Images, machine: Machine, found: dict) -> Setting:
    if not machine.has_gpu:
        # The network computes on all cores; a core or two keep it supplied.
        return Setting(min(2, machine.num_cores - 1), f'of {machine.num_cores} cores')
    return Setting(min(16, machine.num_cores), f'of {machine.num_cores} cores')


def precision_for(images: Images, machine: Machine, found: dict) -> Setting:
    if machine.has_gpu:
        return Setting('bfloat16', 'on a GPU; clustering and loss in float32')
    return Setting('float32', 'on a CPU')


# ---- into a recipe


def apply_settings(cfg: Config, settings: Mapping[str, Any]) -> None:
    """Give a recipe the settings of a folder, as far as it has such.

    Args:
        cfg: of pre-training by epochs; changed.
        settings: values by name, of :func:`choose_settings`. Without ``image_size``, ``stem`` and
            ``width``, network and size of views stay as they are.

    Raises:
        ValueError: if the recipe does not train by epochs.
    """
    set_epochs(cfg, settings['epochs'])
    set_batch_size(cfg, settings['batch_size'])
    set_clusters(cfg.model.get('clustering'), settings)
    cfg.train_dataloader.num_workers = settings['num_workers']
    cfg.gpu = dict(cfg.get('gpu', {}), bfloat16=settings['precision'] == 'bfloat16')
    if 'image_size' in settings:
        set_network(cfg, settings)


def set_batch_size(cfg: Config, batch_size: int) -> None:
    """The batch, and the learning rate in proportion if the recipe says what it belongs to."""
    base = (cfg.get('auto_scale_lr') or {}).get('base_batch_size')
    if base:
        cfg.optim_wrapper.optimizer.lr *= batch_size / base
        cfg.auto_scale_lr.base_batch_size = batch_size
    cfg.train_dataloader.batch_size = batch_size


def set_clusters(clustering: dict | None, settings: Mapping[str, Any]) -> None:
    """Numbers of clusters and the rate of duals, where the method has such."""
    if not clustering or 'num_clusters' not in clustering:
        return
    counts = settings['num_clusters']
    several = isinstance(clustering['num_clusters'], (list, tuple))
    clustering['num_clusters'] = counts if several else counts[len(counts) // 2]
    if 'dual_lr_base_batch_size' in clustering:
        rate = dict(dual_lr=settings['dual_lr'], dual_lr_base_batch_size=settings['batch_size'])
        clustering.update(rate)


def set_network(cfg: Config, settings: Mapping[str, Any]) -> None:
    """Size of the views and shape of the network, of the recipe for folders."""
    size, width = settings['image_size'], settings['width']
    for view in cfg.train_dataloader.dataset.pipeline[0].views:
        view.size = size
    for hook in cfg.custom_hooks:
        if 'pipeline' in hook:
            hook.pipeline = [resized(transform, size) for transform in hook.pipeline]
    kind = dict(small='ResNet_CIFAR', usual='ResNet')[settings['stem']]
    cfg.model.backbone.update(type=kind, stem_channels=width, base_channels=width)
    cfg.param_scheduler[0].warmup = settings['warmup']


def resized(transform: dict, size: int) -> dict:
    """A transform of the pipeline without augmentation, for images of another size."""
    sizes = {'torchvision/Resize': round(size * 8 / 7), 'torchvision/CenterCrop': size}
    kind = transform['type']
    return dict(transform, size=sizes[kind]) if kind in sizes else transform
