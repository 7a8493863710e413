"""Worker processes for the boundary score: light, gone with their parent, and loud when one is killed."""

import concurrent.futures
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from sak_jax import processes
from sak_jax.errors import EndedEarly


class WorkerPool:
    """Processes that evaluate images, started by the first `map` and kept until `close`.

    Spawned, because a process that runs JAX must not be forked; what they are sent should import no JAX. They end by
    themselves when the process that started them is gone, however it ended. Ctrl-C and SIGTERM, which a terminal or a
    scheduler sends to them too, are left to that process.

    Args:
      workers: processes; None for one a processor that this process may use, 1 for none (in this process).
    """

    def __init__(self, workers: int | None = None):
        self.workers = workers or processes.cpus()
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
                self.workers, multiprocessing.get_context("spawn"), initializer=processes.serve
            )
        try:
            with processes.starting():
                results = self._executor.map(function, *zip(*arguments, strict=True))
            yield from results
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
