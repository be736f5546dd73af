"""Ending a training in order when its process is asked to end: a cluster's SIGTERM, or Ctrl-C."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Asked:
    """Whether the process was asked to end, and by which signal."""

    by: signal.Signals | None = None

    def end(self) -> None:
        """End as the signal asks, with the exit status that a shell knows it by; SIGTERM's if another process was."""
        if self.by == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + signal.SIGTERM)


@contextmanager
def asked_to_end() -> Iterator[Asked]:
    """Within it SIGTERM and SIGINT are noted instead of ending the process; a second one ends it as ever.

    A process has one handler of a signal, so this is done in the main thread alone, and only where nobody else has set
    one; afterwards it is as before.
    """
    asked, before = Asked(), {}

    def note(number: int, _) -> None:
        asked.by = signal.Signals(number)
        _restore(before)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                before[number] = signal.signal(number, note)
    try:
        yield asked
    finally:
        _restore(before)


def _restore(handlers: dict[int, object]) -> None:
    for number in list(handlers):
        signal.signal(number, handlers.pop(number))
