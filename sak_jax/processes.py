"""Worker processes: they end with their parent, and leave Ctrl-C and SIGTERM to it."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing import connection, parent_process, resource_tracker

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_GRACE = 20.0
"""Seconds that a worker goes on after SIGTERM, for the parent, which got it too, to save."""


def cpus() -> int:
    """Processors that this process may use (`taskset`, cgroup sets), which may be fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Workers that are started within it, by this thread or one begun within it, hear of signals in `serve` alone.

    Otherwise a signal to all processes ends those that have not got as far, and the run with them.
    """
    resource_tracker.ensure_running()  # Now, as its own start lets signals through again.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def serve() -> None:
    """Makes this process, a worker that has just begun, end with its parent and leave signals to it."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # A terminal sends it to all; the parent stops when it has saved.
    signal.signal(signal.SIGTERM, _end_later)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _end_with_parent() -> None:
    # Not by prctl: the kernel's signal comes when the thread ends that started this process, not the parent itself.
    parent, number = parent_process(), os.getppid()
    while os.getppid() == number and not connection.wait([parent.sentinel], timeout=2.0):
        pass
    os._exit(1)


def _end_later(*_) -> None:
    timer = threading.Timer(_GRACE, os._exit, (0,))
    timer.daemon = True
    timer.start()
