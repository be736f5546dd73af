"""What is said of an error: a sentence where a user can do something about it, the traceback of a bug elsewhere."""

import contextlib
import dis
import warnings
from collections.abc import Iterator
from pathlib import Path

RAISED = dis.opmap["RAISE_VARARGS"]
OF_ARGUMENTS = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)
OWN = Path(__file__).resolve().parents[2]  # the package's folder
EXTRAS = "pip install 'zoo[train,plot,export]'"


class Refused(SystemExit):
    """The end of a command that cannot do what it was asked. As text it is what was said.

    The status is 2 where that lies in the arguments, and 1 where it failed on the way: a training that diverged, a full
    disk.
    """

    def __init__(self, said: str, reason: Exception):
        on_the_way = isinstance(reason, (OSError, FloatingPointError)) and not isinstance(reason, OF_ARGUMENTS)
        super().__init__(1 if on_the_way else 2)
        self.said = said

    def __str__(self) -> str:
        return self.said


def sentence(error: Exception) -> str | None:
    """What to say of an error instead of its traceback; None where it is a bug, whose traceback is wanted.

    Whatever zoo raises on purpose as a ValueError or a TypeError is a sentence for users; one that Python raises within
    zoo is a bug. What the system refuses, and a training that diverged, are told wherever they come from.
    """
    if hasattr(error, "format_message"):  # typer's own errors, and those of click under older versions of it
        return _of_the_parser(error)
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("zoo"):
        if _raised_by_zoo(error):  # which knows what needs it
            return f"error: {error}"
        return f"error: {error.name} is not installed, and this needs it: {EXTRAS}"
    if isinstance(error, (OSError, FloatingPointError)) or (
        isinstance(error, (ValueError, TypeError)) and _raised_by_zoo(error)
    ):
        return f"error: {error}"
    return None


@contextlib.contextmanager
def warnings_as_sentences() -> Iterator[None]:
    """Within it, what zoo warns a user of is a line without a place in zoo's code; other warnings stay as they are.

    The hook is the process's: Python has none that belongs to a call. The command is what the process is for.
    """
    usual = warnings.formatwarning

    def sentence_or_usual(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        if issubclass(category, UserWarning) and Path(filename).is_relative_to(OWN):
            return f"warning: {message}\n"
        return usual(message, category, filename, lineno, line)

    warnings.formatwarning = sentence_or_usual
    try:
        yield
    finally:
        warnings.formatwarning = usual


def _of_the_parser(error: Exception) -> str:
    said = " ".join(error.format_message().split()).replace("Value error, ", "")  # pydantic's, under newer typers
    context = getattr(error, "ctx", None)
    where = context.command_path if context is not None else "zoo"
    return f"error: {said[:1].lower()}{said[1:].rstrip('.')}\n{where} --help says what there is"


def _raised_by_zoo(error: Exception) -> bool:
    """Whether the error comes from a ``raise`` in zoo, rather than from whatever Python or a library refused there."""
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    frame = trace.tb_frame
    is_own = frame.f_globals.get("__name__", "").startswith("zoo.")
    return is_own and frame.f_code.co_code[trace.tb_lasti] == RAISED
