"""Worker processes for the boundary score: light, gone with their parent, and loud when one is killed."""

import concurrent.futures
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from sak_jax.errors import EndedEarly

_WATCH_SECONDS = 0.5


def processors() -> int:
    """How many processors this process may use (`taskset`, cgroup sets), which may be fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class WorkerPool:
    """Processes that evaluate images, started by the first `map` and kept until `close`.

    Spawned, because a process that runs JAX must not be forked; what they are sent should import no JAX. They end by
    themselves when the process that started them is gone, however it ended. Ctrl-C, which a terminal sends to them
    too, is left to that process.

    Args:
      workers: processes; None for one a processor that this process may use, 1 for none (in this process).
    """

    def __init__(self, workers: int | None = None):
        self.workers = workers or processors()
        self._executor: concurrent.futures.ProcessPoolExecutor | None = None

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is not None and self._executor is not None:  # A signal, mostly: nobody waits for what they are at.
            for process in list((self._executor._processes or {}).values()):
                process.kill()
        self.close()

    def map(self, function: Callable, arguments: Iterable[tuple]) -> Iterator[Any]:
        """`function(*each)` for each tuple of `arguments`, in their order; all are begun at once.

        Raises:
          EndedEarly: a worker process was killed; a later `map` starts new ones.
        """
        arguments = list(arguments)
        if self.workers == 1 or len(arguments) <= 1:
            return (function(*each) for each in arguments)
        return self._results(function, arguments)

    def _results(self, function, arguments):
        if self._executor is None:
            self._executor = concurrent.futures.ProcessPoolExecutor(
                self.workers, multiprocessing.get_context("spawn"), initializer=_start_worker, initargs=(os.getpid(),)
            )
        try:
            yield from self._executor.map(function, *zip(*arguments, strict=True))
        except BrokenProcessPool as error:
            self.close()
            raise EndedEarly(
                f"one of the {self.workers} processes that score boundaries was killed, for want of memory mostly; "
                "run the same command with fewer of them (boundary.workers, or --workers)"
            ) from error

    def close(self) -> None:
        """Ends the processes, if there are any, once each has done the image it is at."""
        if self._executor is not None:
            executor, self._executor = self._executor, None
            executor.shutdown(cancel_futures=True)


def _start_worker(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """Ends this process when its parent is another one: a killed parent tells nobody, and the queue stays open."""
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    os._exit(1)
