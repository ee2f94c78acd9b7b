"""How commands end: errors of users are one line, with ``--debug`` a traceback."""

import os
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager

from mmcoke.messages import shown

from .misspelt import explain_misspelt

INTERRUPTED = 'Interrupted. Give the same command again to go on.'


class WrongArgumentsError(ValueError):
    """Arguments that parse, but do not go together; the exit code is 2, as argparse's."""


@contextmanager
def one_line_errors(args: Namespace) -> Iterator[None]:
    """End the program with one line for errors that :func:`explain` knows, and on Ctrl-C.

    Args:
        args: with ``debug``, errors come with their traceback.

    Raises:
        SystemExit: with status 2 for wrong arguments, 130 for Ctrl-C, 1 for others.
    """
    try:
        yield
    except KeyboardInterrupt:
        print(f'\n{INTERRUPTED}', file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:  # of a reader such as head, which has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except Exception as error:
        text = None if 'debug' in args else explain(error, args)
        if text is None:
            raise
        text = shown(text)  # names of files that are not UTF-8, too
        if isinstance(error, WrongArgumentsError):
            print(f'error: {text}', file=sys.stderr)
            raise SystemExit(2) from error
        raise SystemExit(f'error: {text}') from error


def explain(error: Exception, args: Namespace) -> str | None:
    """One line for an error that a user can mend; None for others, which are ours."""
    if isinstance(error, (KeyError, TypeError)):
        return explain_misspelt(error)
    if not isinstance(error, (OSError, ValueError, ImportError, SyntaxError)):
        return None
    text = ' '.join(str(error).splitlines()) or type(error).__name__
    if isinstance(error, OSError):
        text = text.removeprefix(f'[Errno {error.errno}] ')  # a number says nothing to users
    # Its module is not imported here: it takes time.
    unreadable = any(kind.__name__ == 'UnreadableImageError' for kind in type(error).__mro__)
    if unreadable and 'skip_unreadable' in args:
        text += ' To leave them out, add --skip-unreadable.'
    return text
