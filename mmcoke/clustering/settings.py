"""Settings that are no number, or out of their range, are refused where they are given."""

from numbers import Integral, Real
from typing import Any

SEED_RANGE = '[0, 4294967296)'
"""Seeds that torch, numpy and scikit-learn all take."""


def is_number(value: Any, *, whole: bool = False) -> bool:
    """Whether a value is a real number (or a whole one): no bool, NaN, infinity, text or tensor."""
    kind = Integral if whole else Real
    return isinstance(value, kind) and not isinstance(value, bool) and abs(value) < float('inf')


def check_number(
    name: str, value: Any, within: str, *, whole: bool = False, hint: str = ''
) -> None:
    """Refuse a setting that is not a number in its range.

    Args:
        name: of the setting, as the user writes it.
        value: of the setting.
        within: the range as an interval, such as ``'(0, 1]'`` or ``'[1, inf)'``.
        whole: whether it must be an integer.
        hint: what the number means, for the message.

    Raises:
        ValueError: in one line, with name, value and range.
    """
    low, high = (float(end) for end in within[1:-1].split(','))
    if is_number(value, whole=whole):
        above = value >= low if within[0] == '[' else value > low
        below = value <= high if within[-1] == ']' else value < high
        if above and below:
            return
    allowed = f'in {within}'
    if high == float('inf'):
        allowed = f'{"at least" if within[0] == "[" else "above"} {low:g}'
    kind = '' if is_number(value, whole=whole) else f'a {"whole" if whole else "finite"} number, '
    raise ValueError(f'{name} must be {kind}{allowed}, but is {value!r}. {hint}'.rstrip())


def check_flag(name: str, value: Any) -> None:
    """Refuse a setting that is neither True nor False: the text 'False' would count as true.

    Args:
        name, value: of the setting, as the user writes them.

    Raises:
        ValueError: in one line, with name and value.
    """
    if not isinstance(value, bool):
        raise ValueError(f'{name} must be True or False, but is {value!r}.')
