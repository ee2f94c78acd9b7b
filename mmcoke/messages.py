"""Words that messages share."""

from collections.abc import Iterable


def some(names: Iterable[str]) -> str:
    """The first three names, and how many more there are."""
    names = list(map(str, names))
    more = f' and {len(names) - 3} more' if len(names) > 3 else ''
    return (', '.join(names[:3]) or 'nothing') + more


def describe(error: Exception) -> str:
    """What went wrong with a file, without its name."""
    if isinstance(error, AssertionError):
        return 'empty, truncated or not an image'
    return getattr(error, 'strerror', None) or str(error) or type(error).__name__
