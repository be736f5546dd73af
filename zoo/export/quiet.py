"""Converters that tell of themselves, and of what went wrong, at length."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO

from zoo.checks import printable


@contextmanager
def quiet() -> Iterator[None]:
    """What is printed and warned in the body is thrown away.

    For the whole process, while it lasts: converters print, warn and log, and offer no other way to have them silent.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


class Refused(ValueError):
    """What is wrong with a model or a file, in zoo's own words."""


def cause(error: BaseException) -> str:
    """What went wrong in the first place, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {printable(said, 300)}"
