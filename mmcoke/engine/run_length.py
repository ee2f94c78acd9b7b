"""A recipe in fewer or more epochs than it was written for."""

import math
from collections.abc import Iterator

from mmengine.config import Config

LENGTHS = ('warmup', 'begin', 'end', 'T_max', 'milestones')
"""What schedulers measure in epochs; ``zero``, CoKe's epoch at rate 0, is one in any case."""

WARMUP = 5
"""Epochs of warm-up that are kept: a rate that rises faster costs CoKe more than ten epochs."""


def set_epochs(cfg: Config, epochs: int) -> None:
    """Train for so many epochs, with all that hangs on them in proportion.

    Warm-up and other parts of the learning-rate schedule, and settings of model and hooks whose
    names end with ``_epoch`` or ``_epochs``; what was 1 or more stays so. Of the warm-up of
    ``WarmupCosineLR``, :data:`WARMUP` epochs stay, or half of the training, unless the recipe has
    fewer. An epoch at learning rate 0, with which some recipes begin, comes on top.

    Args:
        cfg: of a training by epochs; changed.
        epochs: at a learning rate above 0.

    Raises:
        ValueError: if the training does not go by epochs.
    """
    before = (cfg.get('train_cfg') or {}).get('max_epochs')
    if before is None:
        raise ValueError(f'{cfg.filename} does not train by epochs: it has no max_epochs.')
    schedulers = cfg.get('param_scheduler') or []
    schedulers = schedulers if isinstance(schedulers, list) else [schedulers]
    zero = max([zero_epochs(scheduler) for scheduler in schedulers], default=0)
    factor = epochs / (before - zero)
    for scheduler in schedulers:
        if is_ours(scheduler):
            scheduler.setdefault('warmup', 10)  # that of the class
        kept = min(scheduler.get('warmup', 0), WARMUP, epochs // 2)
        if scheduler.get('by_epoch', True):
            scale(scheduler, factor, LENGTHS)
        if kept:
            scheduler['warmup'] = max(kept, scheduler['warmup'])
    for part in settings_in([cfg.model, cfg.get('custom_hooks') or []]):
        scale(part, factor, [name for name in part if name.endswith(('_epoch', '_epochs'))])
    cfg.train_cfg.max_epochs = epochs + zero


def zero_epochs(scheduler: dict) -> int:
    """Epochs at learning rate 0 that a schedule begins with."""
    return scheduler.get('zero', 1) if is_ours(scheduler) else 0


def is_ours(scheduler: dict) -> bool:
    return str(scheduler.get('type')).endswith('WarmupCosineLR')


def scale(settings: dict, factor: float, names: tuple[str, ...] | list[str]) -> None:
    """Multiply some numbers of epochs, or lists of them, in place."""
    for name in names:
        value = settings.get(name)
        if isinstance(value, (list, tuple)):
            settings[name] = [scaled(number, factor) for number in value]
        elif value is not None:
            settings[name] = scaled(value, factor)


def scaled(value: object, factor: float) -> object:
    """A number of epochs, whole; anything else, 0 and infinity stay."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 < value < math.inf:
        return value
    return max(1, round(value * factor))


def settings_in(part: object) -> Iterator[dict]:
    """All dictionaries within nested settings."""
    if isinstance(part, dict):
        yield part
    for value in part.values() if isinstance(part, dict) else part:
        if isinstance(value, (dict, list, tuple)):
            yield from settings_in(value)
