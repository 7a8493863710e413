"""Writers of a run's scalars and pictures: TensorBoard's files, and services whose packages are extras.

Each takes `(workdir, stage, resume_at, config)`. Runs of a service are one a stage, of the project `sak_jax`, named
`WORKDIR/STAGE`; a run that is resumed goes on there.
"""

import contextlib
import hashlib
import importlib.util
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from etils import epath
from jaxtyping import UInt8

from sak_jax import paths
from sak_jax.errors import UserError

logger = logging.getLogger(__name__)

PROJECT = "sak_jax"
_FLUSH_SECONDS = 30.0

Pictures = Mapping[str, UInt8[np.ndarray, "h w 3"]]
"""By name; each of its own size."""


class Writer(Protocol):
    """Something that takes a run's scalars and pictures: TensorBoard, a service, a list in a test."""

    def write(self, step: int, split: str, values: dict[str, float]) -> None:
        """Scalars of a step."""

    def show(self, step: int, split: str, pictures: Pictures) -> None:
        """Pictures of a step."""

    def close(self) -> None:
        """Writes out what is buffered."""


class TensorBoard:
    """Scalars and pictures as event files, in `events/STAGE` of the workdir; a full disk ends them, not the run.

    They are written in this thread: that of `SummaryWriter` would die of a full disk, and the run wait for it.
    """

    def __init__(self, workdir: epath.Path, stage: str, resume_at: int, config: Mapping[str, Any]):
        from tensorboardX import event_file_writer, summary  # Slow to import.
        from tensorboardX.proto import event_pb2

        self._event, self._summary = event_pb2.Event, summary
        folder = workdir / "events" / stage
        self._writer, self._flushed = None, time.monotonic()
        with self._unless_it_fails(folder):
            if not paths.is_remote(folder):
                folder.mkdir(parents=True, exist_ok=True)
            # Files are named by the second, and one of the same name would be replaced.
            suffix = f".{time.time_ns() % 10**9:09d}"
            self._writer = event_file_writer.EventsWriter(str(folder / "events"), suffix)
            # It says that what comes later in files before was written by a run that was killed.
            again = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._writer.write_event(event_pb2.Event(wall_time=time.time(), step=resume_at + 1, session_log=again))

    def write(self, step: int, split: str, values: dict[str, float]) -> None:
        """Scalars of a step."""
        self._write(step, (self._summary.scalar(f"{split}/{name}", value) for name, value in values.items()))

    def show(self, step: int, split: str, pictures: Pictures) -> None:
        """Pictures of a step."""
        images = (self._summary.image(f"{split}/{name}", one, dataformats="HWC") for name, one in pictures.items())
        self._write(step, images)

    def _write(self, step: int, summaries: Iterator) -> None:
        if self._writer is None:
            return
        with self._unless_it_fails("TensorBoard's events"):
            for summary in summaries:
                self._writer.write_event(self._event(wall_time=time.time(), step=step, summary=summary))
            if time.monotonic() - self._flushed > _FLUSH_SECONDS:
                self._writer.flush()
                self._flushed = time.monotonic()

    def close(self) -> None:
        """Writes out what is buffered."""
        if self._writer is not None:
            with self._unless_it_fails("TensorBoard's events"):
                self._writer.close()

    @contextlib.contextmanager
    def _unless_it_fails(self, what: object) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._writer = None
            logger.warning("%s cannot be written (%s): the run goes on without", what, error.strerror or error)


class Service:
    """Scalars and pictures to a service whose package has `init`, `log` and `finish` as wandb has, and maybe `Image`.

    Args:
      module: the package.
      options: of its `init`, besides project, name and config.
      name: of the run.
      config: the recipe as plain data.
    """

    def __init__(self, module: ModuleType, name: str, config: Mapping[str, Any], **options: Any):
        self._module = module
        module.init(project=PROJECT, name=name, config=dict(config), **options)

    def write(self, step: int, split: str, values: dict[str, float]) -> None:
        """Scalars of a step; those that are not finite are left out."""
        finite = {f"{split}/{name}": value for name, value in values.items() if math.isfinite(value)}
        if finite:
            self._module.log(finite, step=step)

    def show(self, step: int, split: str, pictures: Pictures) -> None:
        """Pictures of a step; none where the package is of a version that takes none."""
        image = getattr(self._module, "Image", None)
        if image is not None and pictures:
            self._module.log({f"{split}/{name}": image(picture) for name, picture in pictures.items()}, step=step)

    def close(self) -> None:
        """Sends what is buffered."""
        self._module.finish()


def _name(workdir: epath.Path, stage: str) -> str:
    return f"{paths.absolute(workdir).name}/{stage}"


def _wandb(workdir: epath.Path, stage: str, resume_at: int, config: Mapping[str, Any]) -> Service:
    import wandb

    name = _name(workdir, stage)
    # The run that the same workdir had before. Steps that it has already are not taken again; they are the same.
    identity = hashlib.sha1(f"{paths.absolute(workdir)}/{stage}".encode()).hexdigest()[:16]
    place = {} if paths.is_remote(workdir) else {"dir": str(workdir)}
    return Service(wandb, name, config, id=identity, resume="allow", group=paths.absolute(workdir).name, **place)


def _trackio(workdir: epath.Path, stage: str, resume_at: int, config: Mapping[str, Any]) -> Service:
    import trackio

    return Service(trackio, _name(workdir, stage), config, resume="allow")


WRITERS: dict[str, Callable[[epath.Path, str, int, Mapping[str, Any]], Writer]] = {
    "tensorboard": TensorBoard,
    "wandb": _wandb,
    "trackio": _trackio,
}
"""By the names in `config.loggers`."""

_PACKAGES = {"tensorboard": "tensorboardX"}


def check(names: Sequence[str]) -> None:
    """Raises UserError for a name that is unknown or whose package is not installed."""
    for name in names:
        if name not in WRITERS:
            raise UserError(f"config.loggers names {name!r}: it may name {', '.join(WRITERS)}")
        package = _PACKAGES.get(name, name)
        if importlib.util.find_spec(package) is None:
            raise UserError(f"config.loggers names {name}, whose package is missing: pip install 'sak_jax[{name}]'")
