"""What of a run's log is on the screen: words for the user; the record is in the file."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
from mmengine.logging.logger import FilterDuplicateWarning

PACKAGE = __name__.split('.')[0]
PYTHON_WARNINGS = logging.getLogger('py.warnings')
"""Where ``logging`` sends what ``warnings`` would print."""

LOGGING = ('logging', 'mmengine.logging', __name__)
"""Modules that a record passes through."""


class OwnWords(logging.Filter):
    """Lets pass what this package warns of, and all errors.

    What a library warns of, the user can do nothing about. Whose a record is, only the stack tells:
    all of OpenMMLab writes into one logger.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR:
            return True
        return record.levelno >= logging.WARNING and caller().split('.')[0] == PACKAGE


def caller() -> str:
    """Name of the module that has written the present record."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_globals.get('__name__', '').startswith(LOGGING):
        frame = frame.f_back
    return '' if frame is None else frame.f_globals.get('__name__', '')


class Screen(logging.StreamHandler):
    """Writes messages alone, to where standard error is at the time: above a progress bar."""

    def __init__(self) -> None:
        super().__init__()
        self.addFilter(OwnWords())

    @property
    def stream(self) -> object:
        return sys.stderr

    @stream.setter
    def stream(self, value: object) -> None:
        """Standard error it stays."""


def quieten(logger: logging.Logger) -> None:
    """Leave on the screen what :class:`OwnWords` lets pass; all of it stays in the files.

    Args:
        logger: of a run; Python's warnings go to its files as well.
    """
    files = [handler for handler in logger.handlers if isinstance(handler, logging.FileHandler)]
    screen = Screen()
    screen.addFilter(FilterDuplicateWarning(logger.name))
    logger.handlers[:] = [*files, screen]
    PYTHON_WARNINGS.handlers[:] = files or [logging.NullHandler()]


@contextmanager
def captured_warnings() -> Iterator[None]:
    """Meanwhile Python's warnings go to the log of the run that is made, not to the screen.

    What OpenCV has to say of a damaged file goes nowhere: that the file is left out is said.
    """
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    logging.captureWarnings(True)
    PYTHON_WARNINGS.propagate = False
    PYTHON_WARNINGS.addHandler(logging.NullHandler())
    try:
        yield
    finally:
        logging.captureWarnings(False)
        PYTHON_WARNINGS.handlers.clear()
        cv2.utils.logging.setLogLevel(level)
