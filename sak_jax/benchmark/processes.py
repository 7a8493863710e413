"""Each contestant in a process of its own, so that memory is its own and its code can be changed; they take turns."""

import dataclasses
import multiprocessing
import statistics
from collections.abc import Callable
from typing import Any

import jax

from sak_jax import recipe
from sak_jax.engine import timing
from sak_jax.errors import UserError

RATE_SIZES = {"cpu": 1024}
"""Side of the matrices whose product gives the device's rate, by backend; elsewhere 8192."""


def ours(values: dict, name: str, batch: int, without: str = "") -> tuple[Callable[[int], float], Callable[[], dict]]:
    """Work of a recipe.

    Args:
      values: the recipe.
      name: what is timed, see `work.names`.
      batch: images.
      without: an optimisation that is switched off, see `ablations.ABLATIONS`; "" is none.

    Returns:
      What times so many rounds, and what gives the figures so far.
    """
    from sak_jax.benchmark import ablations, work

    config = recipe.from_dict(values)
    config.batch_size = batch
    if without:
        ablations.ABLATIONS[without](config)
    rate = work.matrix_rate(config.dtype, RATE_SIZES.get(jax.default_backend(), 8192)) if not without else None
    prepared = work.prepare(config, name)
    prepared.run(2)
    device = jax.devices()[0].device_kind

    def figures() -> dict:
        return {
            "device": device,
            "dtype": config.dtype,
            "compile_seconds": prepared.compile_seconds,
            "gigaflops": prepared.flops / 1e9,
            "program_gibibytes": prepared.program_bytes / 2**30,
            "peak_gibibytes": timing.peak_bytes() / 2**30,
            # Simulated devices of a CPU share its processors, whose rate is that of them all.
            "devices": 1 if jax.default_backend() == "cpu" else prepared.devices,
            "matrix_rate": rate,
        }

    return prepared.seconds, figures


def published(options: dict) -> tuple[Callable[[int], float], Callable[[], dict]]:
    """The published code's work; `options` are those of `published.Published`."""
    from sak_jax.benchmark.published import Published

    theirs = Published(**options)
    theirs.seconds(3 if theirs.device.type == "cuda" else 1)
    return theirs.seconds, lambda: {"peak_gibibytes": theirs.peak_bytes() / 2**30}


def devices() -> tuple[Callable[[], None], Callable[[], dict]]:
    """The devices that a contestant has, as its figures."""
    found = {"platform": jax.default_backend(), "device": jax.devices()[0].device_kind, "count": jax.device_count()}
    return lambda: None, lambda: found


@dataclasses.dataclass
class Contestant:
    """A process that was told what to time.

    Attributes:
      seconds: a round's mean seconds, one entry a round.
    """

    make: Callable
    arguments: tuple
    seconds: list[float] = dataclasses.field(default_factory=list)

    def __enter__(self) -> "Contestant":
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, self.make, self.arguments), daemon=True)
        self._process.start()
        there.close()
        return self

    def __exit__(self, *_) -> None:
        self._here.close()
        self._process.join(timeout=30)
        if self._process.is_alive():
            self._process.kill()

    def ask(self, question: str, *arguments) -> Any:
        """Its answer to one of `ready`, `seconds`, `figures`.

        Raises:
          UserError: it failed.
        """
        try:
            self._here.send((question, arguments))
            good, answer = self._here.recv()
        except (EOFError, OSError) as error:
            raise UserError("the process that was timed is gone: it ran out of memory, perhaps") from error
        if not good:
            raise UserError(answer)
        return answer

    def time(self, steps: int) -> None:
        """One round."""
        self.seconds.append(self.ask("seconds", steps))

    @property
    def median(self) -> float:
        """Of the rounds."""
        return statistics.median(self.seconds)


def _serve(there, make: Callable, arguments: tuple) -> None:
    answers: dict[str, Callable] = {}
    while True:
        try:
            question, given = there.recv()
        except EOFError:
            return
        try:
            if not answers:
                seconds, figures = make(*arguments)
                answers = {"ready": lambda: None, "seconds": seconds, "figures": figures}
            there.send((True, answers[question](*given)))
        except Exception as error:  # Whatever it is, whoever waits is told.
            there.send(
                (False, f"{type(error).__name__}: {str(error).strip().splitlines()[0][:300] if str(error) else ''}")
            )
