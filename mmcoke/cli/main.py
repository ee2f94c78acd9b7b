"""The command ``mmcoke``, and the beginning and end of all that it and tools/ run."""

import io
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from types import ModuleType

from mmcoke import __version__

from . import commands
from .ending import one_line_errors
from .parser import Parser, add_commands, fill

COMMANDS = (
    'train',
    'browse',
    'sort',
    'suggest-k',
    'features',
    'evaluate',
    'gallery',
    'report',
    'zoo',
    'check',
    'export',
)
"""Modules of :mod:`mmcoke.cli.commands`, in the order of ``--help``."""


def main(argv: Sequence[str] | None = None) -> None:
    """The console script ``mmcoke``.

    Args:
        argv: what was typed after ``mmcoke``; None for this process's.

    Raises:
        SystemExit: with the status that :func:`~mmcoke.cli.ending.one_line_errors` gives.
    """
    parser = Parser(
        prog='mmcoke',
        description='Clustering-based self-supervised learning of image features.',
        epilog='mmcoke COMMAND --help tells more about a command.',
    )
    parser.add_argument('--version', action='version', version=f'mmcoke {__version__}')
    add_commands(parser, commands.__name__, COMMANDS)
    args = parser.parse_args(argv)
    run(args.run, args)


def run_tool(command: ModuleType, description: str, argv: Sequence[str] | None = None) -> None:
    """A program of tools/ that does what a command does.

    Args:
        command: a module of :mod:`mmcoke.cli.commands`.
        description: what ``--help`` says above the options.
        argv: as for :func:`main`.
    """
    parser = Parser(description=description)
    fill(parser, command)
    run(command.run, parser.parse_args(argv))


def run(work: Callable[[Namespace], None], args: Namespace) -> None:
    """Do what was asked for; errors end the program as ``one_line_errors`` says."""
    # Names of files need not be UTF-8; that must not end a command when it prints one.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='backslashreplace')
    if sys.stderr.isatty():
        print('loading ...', end='\r', file=sys.stderr, flush=True)  # torch alone takes seconds
    with one_line_errors(args):
        work(args)
        sys.stdout.flush()  # here, where an error can be told
