"""Where a run's time goes: its speed while it trains, and the seconds of all that is not training."""

import contextlib
import logging
import resource
import time
from collections.abc import Iterator

import jax
from etils import epath

from sak_jax.engine import flops

logger = logging.getLogger(__name__)

ACTIVITIES = ("compiling", "data", "saving", "evaluating")
"""What may keep a run from training: compiling (with the first step), waiting for data, saving and evaluating."""


class Clock:
    """Times a stage. Seconds are those of this process, since it was started last.

    Args:
      images: of a step.
      operations: that a step needs, over all devices; None where they are not known.

    Attributes:
      spent: seconds by activity, `training` among them: all that is none of `ACTIVITIES`.
    """

    def __init__(self, images: int, operations: int | None = None):
        self._images, self._operations = images, operations
        self._began = self._lap_began = time.monotonic()
        self._spent = dict.fromkeys(ACTIVITIES, 0.0)
        self._lap_spent = dict(self._spent)
        self._lap_step: int | None = None

    @contextlib.contextmanager
    def during(self, activity: str) -> Iterator[None]:
        """Within it time is spent on an activity."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._spent[activity] += time.monotonic() - began

    @property
    def spent(self) -> dict[str, float]:
        """Seconds by activity."""
        others = sum(self._spent.values())
        return self._spent | {"training": max(0.0, time.monotonic() - self._began - others)}

    def lap(self, step: int, steps: int) -> dict[str, float]:
        """The speed since the last lap, without compiling, saving and evaluating; empty at the first.

        Args:
          step: the step that is done.
          steps: of the stage.

        Returns:
          `images_per_second`, `step_seconds`, of which `data_seconds` were waited for data, `remaining_seconds`, and
          `memory_gigabytes`, see `peak_bytes`; on accelerators also `tflops` a device and `mfu`, the share of the
          bfloat16 peak.
        """
        now, spent = time.monotonic(), dict(self._spent)
        began, before, first = self._lap_began, self._lap_spent, self._lap_step
        self._lap_began, self._lap_spent, self._lap_step = now, spent, step
        if first is None or step <= first:
            return {}
        aside = sum(spent[name] - before[name] for name in ACTIVITIES if name != "data")
        seconds = max(now - began - aside, 1e-9) / (step - first)
        values = {
            "images_per_second": self._images / seconds,
            "step_seconds": seconds,
            "data_seconds": (spent["data"] - before["data"]) / (step - first),
            "remaining_seconds": seconds * (steps - step),
            "memory_gigabytes": peak_bytes() / 1e9,
        }
        if self._operations is not None:
            rate = self._operations / jax.device_count() / seconds
            values |= {"tflops": rate / 1e12, "mfu": rate / flops.PEAKS[jax.local_devices()[0].device_kind]}
        return values


def peak_bytes() -> int:
    """The most memory so far: a device's, or on a CPU the process's."""
    statistics = jax.local_devices()[0].memory_stats()
    if statistics and "peak_bytes_in_use" in statistics:
        return statistics["peak_bytes_in_use"]
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class Profile:
    """A trace of a few steps for xprof and TensorBoard, in a folder of its own.

    Args:
      folder: where it is written.
      window: the first step, and how many; 0 is none.
    """

    def __init__(self, folder: epath.Path, window: tuple[int, int]):
        self._folder, (self._first, self._steps) = folder, window
        self._running = False

    def before(self, step: int) -> None:
        """To be called before every step."""
        if self._running:
            if step >= self._first + self._steps:
                self.close()
        elif self._steps and step == self._first:
            jax.profiler.start_trace(str(self._folder))
            self._running = True
        elif self._steps and step > self._first:
            logger.warning("no profile: step %d is past, the run goes on at step %d", self._first, step)
            self._steps = 0

    def close(self) -> None:
        """Writes the trace."""
        if self._running:
            jax.profiler.stop_trace()
            logger.info("profile of %d steps: xprof --logdir=%s", self._steps, self._folder)
            self._running, self._steps = False, 0


def speed(values: dict[str, float]) -> str:
    """A lap for a reader: `312 images/s, 0.41 s a step (data 2 %), 1.3 GB`."""
    waited = round(100 * values["data_seconds"] / values["step_seconds"])
    text = f"{values['images_per_second']:.3g} images/s, {values['step_seconds']:.3g} s a step (data {waited} %)"
    if "mfu" in values:
        text += f", {values['tflops']:.3g} TFLOP/s a device (MFU {100 * values['mfu']:.0f} %)"
    return f"{text}, {values['memory_gigabytes']:.3g} GB"


def line(values: dict[str, float]) -> str:
    """The same with the time that is left: `.., 3 h 05 min to go`."""
    minutes = round(values["remaining_seconds"] / 60)
    left = f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
    return f"{speed(values)}, {left} to go"
