"""Words that messages share."""

import os
from collections.abc import Iterable
from difflib import get_close_matches
from os import PathLike


def some(names: Iterable[str]) -> str:
    """The first three names, and how many more there are."""
    names = [shown(str(name)) for name in names]
    more = f' and {len(names) - 3} more' if len(names) > 3 else ''
    return (', '.join(names[:3]) or 'nothing') + more


def did_you_mean(word: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """A question that names the nearest of the known words, to follow a sentence; '' if none is.

    Args:
        word: that is not known.
        known: words.
        cutoff: how alike two words must be, 0 ... 1, as difflib measures it.
    """
    near = get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f' Did you mean {shown(near[0])}?' if near else ''


def describe(error: Exception) -> str:
    """What went wrong with a file, without its name."""
    if isinstance(error, AssertionError):
        return 'empty, truncated or not an image'
    return getattr(error, 'strerror', None) or str(error) or type(error).__name__


CONTROL = {code: repr(chr(code))[1:-1] for code in (*range(32), 127)}


def shown(path: str | PathLike) -> str:
    """A path as one line that can be printed anywhere: bytes that are not UTF-8 as ``\\xff``."""
    return os.fsencode(path).decode('utf-8', 'backslashreplace').translate(CONTROL)
