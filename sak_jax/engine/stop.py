"""SIGTERM and Ctrl-C, from a run's first second to its last."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

from sak_jax.errors import Stopped

ADVICE = "run the same command to go on"
PATIENCE = 25.0
"""Seconds that a signal may wait for a step, or for a program that is being compiled, before the run ends without."""


class Stop:
    """What signals a process has been sent.

    A signal ends the run at once with a `Stopped`; within `deferred` it is only noted, and the loop, which asks
    `requested`, saves first. Where the main thread does not come round to it (it compiles, say), a thread of its own
    ends the process after `PATIENCE` seconds, unless something is being saved: what was saved before is whole.
    """

    def __init__(self):
        self._received: int | None = None
        self._deferred = False
        self._saving, self._over = threading.Event(), threading.Event()
        self._wake: int | None = None
        self._previous: dict = {}

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self._received is not None

    def refuse(self) -> None:
        """Ends the run where nothing is left to be saved."""
        raise Stopped(f"stopped; {ADVICE}")

    @contextlib.contextmanager
    def listening(self) -> Iterator["Stop"]:
        """Within it signals are heard; in a thread, where Python cannot hear them, they are left alone."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        numbers = (signal.SIGTERM, signal.SIGINT)
        self._previous = {number: signal.signal(number, self._handle) for number in numbers}
        reader, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        before = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reader,), daemon=True, name="signals").start()
        try:
            yield self
        finally:
            self._over.set()
            signal.set_wakeup_fd(before)
            os.close(self._wake)
            for number, handler in self._previous.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Within it a signal is only noted."""
        self._deferred, before = True, self._deferred
        try:
            yield
        finally:
            self._deferred = before

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Within it the process is not ended from outside: something is being written."""
        self._saving.set()
        try:
            yield
        finally:
            self._saving.clear()

    def _handle(self, number: int, frame: object) -> None:
        first, self._received = self._received is None, number
        if not self._deferred and first:
            before = self._previous.get(number)
            if callable(before) and before is not signal.default_int_handler:
                before(number, frame)  # A program's own way to end; what follows could be lost in a callback.
            self.refuse()

    def _watch(self, reader: int) -> None:
        wanted = {signal.SIGTERM, signal.SIGINT}
        with os.fdopen(reader, "rb", buffering=0) as pipe:
            while numbers := pipe.read(1):
                if numbers[0] in wanted:
                    break
            else:
                return
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline or self._saving.is_set():
            if self._over.wait(0.2):
                return
        print(f"error: stopped before the step was done; {ADVICE}", file=sys.stderr, flush=True)
        os._exit(1)
