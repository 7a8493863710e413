"""Batches on the devices before they are asked for: made, joined and copied by a thread of their own."""

import collections
import concurrent.futures

import jax

from sak_jax.engine import hosts
from sak_jax.engine import mesh as meshes
from sak_jax.engine.stage import Batches
from sak_jax.errors import UserError

AHEAD = 2
"""Batches that lie on the devices beside the one that is trained on."""


class Ahead:
    """This process's batches as global arrays on the mesh, the next ones made while the devices compute.

    The training thread does nothing for them: neither joining of samples nor copying. Batches are the same as without.

    Attributes:
      problem: why no more batches can be made, where other processes have to hear of it first (see `check`).
    """

    def __init__(self, batches: Batches, mesh: jax.sharding.Mesh, ahead: int = AHEAD):
        self.problem: UserError | None = None
        self._batches, self._mesh, self._ahead = batches, mesh, ahead
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._made: collections.deque[concurrent.futures.Future] = collections.deque()
        self._state = batches.get_state()
        self._last: dict[str, jax.Array] | None = None

    def __next__(self) -> dict[str, jax.Array]:
        """The next batch.

        One of several processes that has none gives its last batch again, as the others wait for it in the middle of a
        step: all must `check` before anything is kept of the step.

        Raises:
          UserError: as the data raised it, in the only process, or in all that share the first batch.
        """
        while len(self._made) <= self._ahead:  # The one that is asked for, and those after it.
            self._made.append(self._thread.submit(self._make))
        made = self._made.popleft()
        if self._last is None:
            self._last, self._state = hosts.together(made.result)
        elif self.problem is None:
            try:
                self._last, self._state = made.result()
            except UserError as error:
                if jax.process_count() == 1:
                    raise
                self.problem = error
        return self._last

    def check(self) -> None:
        """Raises the problem of any process in all; all must call it."""
        hosts.together(self._raise)

    def _raise(self) -> None:
        if self.problem is not None:
            raise self.problem

    def _make(self) -> tuple[dict[str, jax.Array], dict]:
        batch = meshes.put_batch(next(self._batches), self._mesh)
        return batch, self._batches.get_state()

    def get_state(self) -> dict[str, int]:
        """Where `batches` was after the last batch that was given."""
        return self._state

    def close(self) -> None:
        """Ends the thread, which first finishes the batch it is at."""
        self._thread.shutdown(cancel_futures=True)
