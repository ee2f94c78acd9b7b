"""How commands parse: errors come before anything is imported, and say what was meant."""

import argparse
import math
import re
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from mmcoke.messages import did_you_mean

LEAST = dict(batch_size=1, num_workers=0, size=1, k=1, restarts=1, num_clusters=1, num_shown=0)
"""Smallest values of arguments, of whichever command."""


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Leaves room for the longest name of a command, whose indent argparse forgets."""

    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        for command in self._iter_indented_subactions(action):
            length = self._current_indent + len(self._format_action_invocation(command))
            self._action_max_length = max(self._action_max_length, length)


class Parser(argparse.ArgumentParser):
    """A parser that says what a misspelt command or option should have been.

    Every parser has ``--debug``, so it may stand before or after the name of a command; ``debug``
    is in the namespace only if it was given.
    """

    def __init__(self, **options) -> None:
        options.setdefault('formatter_class', HelpFormatter)
        super().__init__(**options)
        self.add_argument(
            '--debug',
            action='store_true',
            default=argparse.SUPPRESS,
            help='show where in the code an error came from',
        )

    def parse_known_args(self, args=None, namespace=None):
        """Parse; the command itself refuses what is unknown, not the parser above it."""
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f'unrecognized arguments: {" ".join(unknown)}')
        try:
            check_arguments(namespace)
        except ValueError as error:
            self.error(str(error))
        return namespace, unknown

    def error(self, message: str) -> None:
        hint = self.suggestion(message)
        super().error(f'{message}.{hint}' if hint else message)

    def suggestion(self, message: str) -> str:
        """What was probably meant, for two of argparse's messages."""
        if found := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
            return did_you_mean(found[1], re.findall(r"[^', ]+", found[2]))
        if found := re.match(r'unrecognized arguments: (?:.* )?(--[^ =]+)', message):
            return did_you_mean(found[1], self._option_string_actions)
        return ''


def check_arguments(args: argparse.Namespace) -> None:
    """ValueError if a number is out of its range."""
    for name, least in LEAST.items():
        values = getattr(args, name, None)
        for value in values if isinstance(values, (list, tuple)) else [values]:
            if isinstance(value, int) and value < least:
                option = name.replace('_', '-')
                raise ValueError(f'--{option} must be at least {least}, but is {value}.')
    temperature = getattr(args, 'temperature', 1.0)
    if not 0 < temperature < math.inf:
        raise ValueError(f'--temperature must be positive, but is {temperature}.')


def add_commands(parser: argparse.ArgumentParser, package: str, names: Sequence[str]) -> None:
    """Add commands, each from the module of its name; ``args.run`` is then the chosen one's.

    Args:
        parser: of the command above them.
        package: with the modules, see :mod:`mmcoke.cli.commands`.
        names: of the commands, with ``-`` for the ``_`` of a module.
    """
    children = parser.add_subparsers(title='commands', metavar='COMMAND', required=True)
    for name in names:
        command = import_module(f'{package}.{name.replace("-", "_")}')
        child = children.add_parser(name, help=command.HELP, description=command.__doc__)
        fill(child, command)


def fill(parser: argparse.ArgumentParser, command: ModuleType) -> None:
    """Give a parser the arguments of a command, and what it runs."""
    command.add_arguments(parser)
    if hasattr(command, 'run'):
        parser.set_defaults(run=command.run)
