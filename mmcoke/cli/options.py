"""Settings on the command line: KEY=VALUE, with values as they were typed."""

from __future__ import annotations

import ast
import os
import re
from argparse import Action, ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from .misspelt import check_keys

if TYPE_CHECKING:
    from mmengine.config import Config

PATH = re.compile(r'(^|.*_)(root|dir|path|file|filename|prefix|from|name|checkpoint|source|folder)')
"""Names of settings that are text, mostly paths, whatever they look like."""

ABSENT = object()


class OptionsAction(Action):
    """Collects KEY=VALUE for :func:`merge_options`, which knows what a setting is now."""

    def __call__(
        self,
        parser: ArgumentParser,
        namespace: Namespace,
        values: list[str],
        option_string: str | None = None,
    ) -> None:
        options = dict(getattr(namespace, self.dest) or {})
        for value in values:
            key, equals, text = value.partition('=')
            if not (key and equals):
                parser.error(f'{option_string} takes KEY=VALUE, not {value!r}')
            options[key] = text
        setattr(namespace, self.dest, options)


def add_options(parser: ArgumentParser, example: str) -> None:
    """Add ``--cfg-options``; its values go to :func:`merge_options`."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=OptionsAction,
        default={},
        metavar='KEY=VALUE',
        help=f'override settings of the config, such as {example}',
    )


def merge_options(cfg: Config, options: dict[str, str]) -> None:
    """Override settings of a config, and let ``~`` in its paths be the home folder.

    Args:
        cfg: is changed.
        options: texts by dotted key, as they were typed.

    Raises:
        ValueError: if a key is one of the config, misspelt, or leads through what is no dict.
    """
    check_keys(cfg, options)
    values = {key: value_of(key, text, present(cfg, key)) for key, text in options.items()}
    try:
        cfg.merge_from_dict(values)
    except (KeyError, TypeError) as error:
        raise ValueError(f'--cfg-options do not fit the config: {error.args[0]}') from error
    expand_home(cfg._cfg_dict)


def present(cfg: Config, key: str) -> Any:
    """What a setting is before it is overridden; :data:`ABSENT` if it is not there."""
    value = cfg._cfg_dict
    for part in key.split('.'):
        try:
            value = value[int(part) if isinstance(value, (list, tuple)) else part]
        except (KeyError, IndexError, TypeError, ValueError):
            return ABSENT
    return value


def value_of(key: str, text: str, now: Any) -> Any:
    """What a text means for a setting.

    Quoted, it is text. Paths and names are text anyway, unless they are lists or numbers now.
    Else, in this order: a Python value; what mmengine makes of ``a,b`` and ``[a, b]``, where there
    is a list now; the text itself, to the letter.

    Args:
        key: dotted.
        text: as it was typed.
        now: the present value, or :data:`ABSENT`.
    """
    if len(text) > 1 and text[0] == text[-1] and text[0] in '\'"' and text[0] not in text[1:-1]:
        return text[1:-1]
    if text == 'None':
        return None
    is_text = now is ABSENT or now is None or isinstance(now, str)
    if is_text and PATH.fullmatch(key.rsplit('.', 1)[-1]) and not text.startswith('{'):
        return text
    if text.lower() in ('true', 'false'):
        return text.lower() == 'true'
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        in_list = isinstance(now, (list, tuple)) or (not isinstance(now, str) and text[:1] == '[')
        return parsed_list(text) if in_list else text
    bare = isinstance(value, tuple) and not text.strip().startswith('(')
    return list(value) if bare else value


def parsed_list(text: str) -> Any:
    """What mmengine makes of ``a,b`` and ``[a, b]``."""
    from mmengine.config import DictAction

    return DictAction._parse_iterable(text)


def expand_home(settings: Any) -> None:
    """Replace a leading ``~`` in all paths of nested settings."""
    items = settings.items() if isinstance(settings, dict) else enumerate(settings)
    for key, value in list(items):
        if isinstance(value, (dict, list)):
            expand_home(value)
        elif isinstance(value, str) and value.startswith('~') and PATH.fullmatch(str(key)):
            settings[key] = home(value)


def home(path: str) -> str:
    """A path with a leading ``~`` as the home folder; others, ``~photos`` too, to the letter."""
    return os.path.expanduser(path)
