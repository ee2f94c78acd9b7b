"""Words that messages share."""

import os
from collections.abc import Iterable
from os import PathLike


def some(names: Iterable[str]) -> str:
    """The first three names, and how many more there are."""
    names = [shown(str(name)) for name in names]
    more = f' and {len(names) - 3} more' if len(names) > 3 else ''
    return (', '.join(names[:3]) or 'nothing') + more


def describe(error: Exception) -> str:
    """What went wrong with a file, without its name."""
    if isinstance(error, AssertionError):
        return 'empty, truncated or not an image'
    return getattr(error, 'strerror', None) or str(error) or type(error).__name__


CONTROL = {code: repr(chr(code))[1:-1] for code in (*range(32), 127)}


def shown(path: str | PathLike) -> str:
    """A path as one line that can be printed anywhere: bytes that are not UTF-8 as ``\\xff``."""
    return os.fsencode(path).decode('utf-8', 'backslashreplace').translate(CONTROL)
