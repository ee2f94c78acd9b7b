"""What a misspelt setting or name was meant to be; light, because errors are rare."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from traceback import walk_tb
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mmcoke.messages import did_you_mean

if TYPE_CHECKING:
    from mmengine.config import Config

UNEXPECTED = re.compile(r"([\w.<>]+)\(\) got an unexpected keyword argument '(\w+)'")
NO_ARGUMENTS = re.compile(r'(\w+)\(\) takes no arguments')
NO_OPTIMIZER = 'None is not a callable object'
"""What mmengine's constructor of optimizers says of one that nobody has registered."""
MISSING = re.compile(r'(\w+)\.__init__\(\) missing \d+ required [\w-]+ arguments?: (.*)')
UNREGISTERED = re.compile(r'(\S+) is not in the (.+?) registry\.')
ALIKE = 0.8
"""From which ratio on a new setting is taken for another one, misspelt."""


# ---- before anything is built


def check_keys(cfg: Config, keys: Iterable[str]) -> None:
    """Refuse a new setting that looks like one that is there, unless what it is for takes it.

    Args:
        cfg: without the settings.
        keys: dotted, of the settings.

    Raises:
        ValueError: with the key that was probably meant.
    """
    for key in keys:
        place, above = cfg._cfg_dict, ''
        for part in key.split('.'):
            if isinstance(place, dict) and part not in place:
                check_key(place, above, part)
                break
            try:
                place = place[int(part) if isinstance(place, (list, tuple)) else part]
            except (IndexError, KeyError, TypeError, ValueError):
                break
            above += f'{part}.'


def check_key(place: dict, above: str, name: str) -> None:
    """Refuse a new name in a dict of a config; ``above`` is the key of that, with its dot."""
    known = set(map(str, place)) | (set() if above else settings_of(place, is_whole=True))
    near = get_close_matches(name, sorted(known), n=1, cutoff=ALIKE)
    if near and name not in settings_of(place, is_whole=not above):
        raise ValueError(f'The config has no {above}{name}. Did you mean {above}{near[0]}?')


def settings_of(place: dict, *, is_whole: bool) -> set[str]:
    """Names of all settings that may be in a dict of a config, where that is known.

    Args:
        place: a dict with ``type``, or the whole config.
        is_whole: whether it is that.
    """
    if is_whole:
        from mmengine.runner import Runner

        return parameters_of(Runner)
    kind = place.get('type')
    kinds = [kind] if callable(kind) else registered(str(kind))
    return set().union(*map(parameters_of, kinds))


def registered(name: str) -> list[Callable]:
    """What is registered under a name of a config, in whichever registry of mmcoke."""
    from mmcoke import registry

    found = (
        kind.get(name) for kind in vars(registry).values() if isinstance(kind, registry.Registry)
    )
    return [kind for kind in found if kind is not None]


def parameters_of(kind: Callable) -> set[str]:
    """Names of the arguments of a function, or of a class and those above it."""
    makers = [base.__init__ for base in kind.__mro__] if inspect.isclass(kind) else [kind]
    names = set()
    for maker in makers:
        try:
            names.update(inspect.signature(maker).parameters)
        except (TypeError, ValueError):  # of C
            continue
    return names - {'self', 'args', 'kwargs'}


# ---- when it is built


def explain_misspelt(error: Exception) -> str | None:
    """One line for a setting that nothing takes, or a type that nobody has registered.

    Returns:
        None for all other errors.
    """
    if isinstance(error, TypeError) and (found := UNEXPECTED.search(str(error))):
        name, setting = found[1].removesuffix('.__init__'), found[2]
        called = [*made(name, error.__traceback__), *named(name)]
        known = set().union(*map(parameters_of, called))
        owner = called[0].__name__ if called else name
        return f'{owner} has no setting {setting!r}.{did_you_mean(setting, known)}'
    if isinstance(error, TypeError) and (found := NO_ARGUMENTS.fullmatch(str(error))):
        return f'{found[1]} has no settings.'
    if isinstance(error, TypeError) and (found := MISSING.fullmatch(str(error))):
        return f'{found[1]} lacks settings: {found[2]}.'
    if isinstance(error, TypeError) and str(error) == NO_OPTIMIZER:
        for name in optimizer_types(error.__traceback__):
            hint = did_you_mean(name, registered_names('optimizer'))
            return f'There is no type {name!r} in the optimizer registry.{hint}'
    if isinstance(error, KeyError) and (found := UNREGISTERED.match(str(error.args[0]))):
        hint = did_you_mean(found[1], registered_names(found[2].rpartition('::')[2]))
        return f'There is no type {found[1]!r} in the {found[2]} registry.{hint}'
    return None


def made(name: str, trace: TracebackType | None) -> Iterator[type]:
    """Classes that were being made, and have passed a wrong argument on to the class of a name."""
    for frame, _ in walk_tb(trace):
        local = frame.f_locals
        if frame.f_code.co_name == '__init__' and 'self' in local:
            kind = type(local['self'])
            if name in (base.__name__ for base in kind.__mro__):
                yield kind


def optimizer_types(trace: TracebackType | None) -> Iterator[str]:
    """Types of the optimizers whose constructors failed."""
    for frame, _ in walk_tb(trace):
        constructor = frame.f_locals.get('self')
        if isinstance(cfg := getattr(constructor, 'optimizer_cfg', None), dict):
            yield str(cfg.get('type'))


def named(name: str) -> Iterator[Callable]:
    """Functions and classes of a name, in all that is imported."""
    for module in list(sys.modules.values()):
        found: Any = getattr(module, '__dict__', {}).get(name)
        if callable(found) and getattr(found, '__name__', '') == name:
            yield found


def registered_names(kind: str) -> set[str]:
    """All names in the registries of a kind, such as ``model``: of mmcoke and those above it."""
    from mmcoke import registry

    names = set()
    for found in vars(registry).values():
        while isinstance(found, registry.Registry) and found.name == kind:
            names |= set(found.module_dict)
            found = found.parent
    return names
