"""How many processes read pictures."""

import os
import signal
import warnings

USUAL = 4  # as many as a recipe that does not say gets, where there are so many cores


def available_cores() -> int:
    """The processors on which this process may run: those it is bound to, of all there are."""
    bound = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(bound(0)) if bound else os.cpu_count() or 1


def worker_count(asked: int | None) -> int:
    """How many processes read for one that trains: never more than there are cores for it.

    The processes that a launcher started on this machine (torchrun tells their number in ``LOCAL_WORLD_SIZE``) share
    its cores.

    Args:
        asked: As the recipe says it; None: up to `USUAL`.
    """
    beside = os.environ.get("LOCAL_WORLD_SIZE", "1")
    most = max(available_cores() // max(int(beside) if beside.isdecimal() else 1, 1), 1)
    if asked is not None and asked > most:
        warnings.warn(f"data.workers is {asked}: {most} are started, as many as there are cores for them", stacklevel=2)
    return min(USUAL if asked is None else asked, most)


def outlive_first_sigterm(_: int = 0) -> None:
    """Let a process that reads pictures pass over one SIGTERM; the second ends it as ever.

    A cluster, and a terminal's job control, send a signal to all processes of a training at once. The one that trains
    goes on to the end of its step and saves a checkpoint, and torch makes it fail if a reader dies meanwhile. Readers
    end with it all the same: they look for their parent every few seconds.
    """
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
