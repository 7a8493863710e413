"""What a task is, and what a kind of task is: everything that depends on what a label means.

A kind is one class in one file: its loss as sums and mean, its metrics, what labels may look like, what scaling and
mirroring do to them, how they are stored and drawn, and what a prediction says in plain values. `register` adds one.
"""

import abc
import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import cv2
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped, UInt8

from sak_jax.errors import UserError

IGNORE = 255
"""The label value that neither losses nor metrics count, for every task."""

RESERVED = ("image", "mask", "size", "index", "id", "skipped", "total", "lr", "grad_norm")
"""Names that samples and logs use themselves; a task cannot have them, nor one that begins with "distill"."""

Picture = UInt8[np.ndarray, "h w 3"]

_GREY = 128  # of pixels that are ignored, in pictures


@dataclasses.dataclass(frozen=True)
class Task:
    """One dense prediction task.

    Attributes:
      name: the key of its labels in a sample and of its head's output.
      channels: channels of the prediction.
      kind: a key of `KINDS`: what the labels mean.
      weight: factor of its loss in the total.
      metric: one of the kind's metrics, or "loss".
      options: what the kind lets a task set, see `Kind.options`; a mapping, kept as sorted pairs with all defaults.

    Raises:
      UserError: any of these is not usable.
    """

    name: str
    channels: int
    kind: str
    weight: float
    metric: str
    options: Any = ()

    def __post_init__(self):
        _check_name(self.name)
        where = f"tasks.{self.name}"
        if self.kind not in KINDS:
            raise UserError(f"{where}.kind is {self.kind!r}; set it to one of {', '.join(KINDS)}")
        kind = KINDS[self.kind]
        if self.channels < 1:
            raise UserError(f"{where}.channels is {self.channels}; it must be positive")
        if kind.channels not in (None, self.channels):
            raise UserError(f"{where}.channels is {self.channels}; the kind {kind.name} has {kind.channels} channels")
        if not 0 <= self.weight < math.inf:
            raise UserError(f"{where}.weight is {self.weight}; it must not be negative")
        if self.metric not in (*kind.metrics, "loss"):
            raise UserError(f"{where}.metric is {self.metric!r}; set it to one of {', '.join((*kind.metrics, 'loss'))}")
        given = dict(self.options)
        for name, value in given.items():
            if name not in kind.options:
                known = ", ".join(kind.options) or "none"
                raise UserError(f"{where} has no option {name!r}; options of the kind {kind.name}: {known}")
            given[name] = typed(kind.options[name], value, f"{where}.{name}")
        object.__setattr__(self, "options", tuple(sorted({**kind.options, **given}.items())))
        kind.check_task(self)

    def option(self, name: str) -> Any:
        """The value of one of the kind's options."""
        return dict(self.options)[name]


def _check_name(name: str) -> None:
    if not name or name in RESERVED or name.startswith("distill"):
        raise UserError(f"a task cannot be named {name!r}, which samples or logs use themselves; rename it in tasks")
    if "/" in name or "." in name:
        raise UserError(f"a task cannot be named {name!r}: '/' and '.' separate keys; rename it in tasks")


def typed(default: Any, value: Any, where: str) -> Any:
    """`value` in the type of `default`, lists as tuples, so that a task can be hashed.

    Raises:
      UserError: it is of another type; `where` names it.
    """
    if isinstance(default, tuple) and isinstance(value, list | tuple):
        return tuple(tuple(item) if isinstance(item, list | tuple) else item for item in value)
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if type(value) is type(default):
        return value
    wanted = "list" if isinstance(default, tuple) else type(default).__name__
    raise UserError(f"{where} is {value!r}; it must be of the type {wanted}")


class Kind(abc.ABC):
    """Everything that depends on what a label means; without state, so one instance serves all tasks of the kind.

    Labels are NumPy arrays `[h, w, *vector]`, 255 where they are to be ignored; raw predictions are `[h, w, channels]`.
    What changes a label may do so in place: callers own the array that they hand over.

    Attributes:
      name: what `Task.kind` says.
      channels: of a prediction; None for any number.
      options: names and defaults of what a task of this kind may set besides `Task`'s own fields.
      metrics: classes of the metrics that `Task.metric` may name.
      dtypes: of labels; the first is the usual one.
      vector: shape of one pixel's label.
      encodings: of label files that give such labels, see `sak_jax.data.sets.folder`; the first is the default.
      stored_channels: channels of the PNG that stores a label without loss; 0 where labels are stored as they are.
    """

    name: ClassVar[str]
    channels: ClassVar[int | None] = None
    options: ClassVar[Mapping[str, Any]] = {}
    metrics: ClassVar[Mapping[str, type]]
    dtypes: ClassVar[tuple[type, ...]]
    vector: ClassVar[tuple[int, ...]] = ()
    encodings: ClassVar[tuple[str, ...]]
    stored_channels: ClassVar[int] = 0

    def check_task(self, task: Task) -> None:  # noqa: B027 - most have nothing to add
        """Raises UserError for channels or options that no task of this kind can have."""

    # Loss

    @abc.abstractmethod
    def loss_sums(
        self, task: Task, prediction: Float[Array, "b h w c"], label: Shaped[Array, "b h w *vector"]
    ) -> dict[str, Array]:
        """Sums over valid pixels: float32, or int32 for those named `*count`; those of several batches may be added.

        The same code serves a training step (one batch or its parts), an evaluation (sums added up over batches) and a
        batch that is sharded over devices (the sums are global). Computed in float32, whatever the prediction's dtype.
        """

    def loss_mean(self, sums: Mapping[str, Any]) -> Any:
        """The loss, a scalar, from such sums (JAX's or NumPy's): here sum / count. 0 where no pixel is valid."""
        return sums["sum"] / at_least_one(sums["count"])

    # Labels

    def check(self, task: Task, label: np.ndarray, where: str) -> None:
        """Checks that a label is what this kind works on; `check_values` looks at its values.

        Args:
          task: of this kind.
          label: from a data set, before any transform.
          where: names the sample in the error.

        Raises:
          UserError: another dtype, shape or range.
        """
        if label.dtype not in self.dtypes:
            usual = np.dtype(self.dtypes[0]).name
            *others, last = self.encodings
            choice = f"{', '.join(others)} or {last}" if others else last
            raise UserError(
                f"the labels of task {task.name!r} are {label.dtype}, and those of its kind {self.name} {usual}: "
                f"set data.encodings.{task.name} to {choice}"
            )
        if label.ndim != 2 + len(self.vector) or label.shape[2:] != self.vector:
            shape = ", ".join(["height", "width", *map(str, self.vector)])
            raise UserError(f"{where} has labels of the shape {label.shape} for task {task.name!r}, not ({shape})")
        self.check_values(task, label, where)

    def check_values(self, task: Task, label: np.ndarray, where: str) -> None:  # noqa: B027 - the encoding did it
        """The part of `check` that reads the values."""

    def resample(
        self,
        task: Task,
        label: Shaped[np.ndarray, "h w *vector"],
        rows: Int[np.ndarray, " i"],
        columns: Int[np.ndarray, " j"],
    ) -> Shaped[np.ndarray, "i j *vector"]:
        """A new array of the given rows and columns: nearest scaling, cropping and mirroring in one."""
        if label.ndim == 3 and label.dtype == np.float32:  # Twice as fast; one channel is faster by `take`.
            places = np.empty((len(rows), len(columns), 2), np.int16)
            places[..., 0], places[..., 1] = columns, rows[:, None]
            return cv2.remap(label, places, None, cv2.INTER_NEAREST)
        return label.take(rows, axis=0).take(columns, axis=1)

    def shrink(self, task: Task, label: np.ndarray, factor: float) -> np.ndarray:
        """The label before every `1 / factor`th pixel is taken of it, as images are shrunk to fit: here as it is.

        What is a pixel wide is widened, and what is measured in pixels multiplied, in a new array. It is no zoom: depth
        stays.
        """
        return label

    def scale(self, task: Task, label: np.ndarray, factor: float) -> np.ndarray:
        """The values where the image, and with it the camera's focal length, is scaled by `factor`."""
        return label

    def flip(self, task: Task, label: np.ndarray) -> np.ndarray:
        """The values where image and label have been mirrored from left to right."""
        return label

    def ignore(self, task: Task, label: np.ndarray) -> np.ndarray:
        """The label with 255 where it holds nothing to learn from; the last step before padding with 255."""
        return label

    @abc.abstractmethod
    def random_label(self, task: Task, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """A label of that height and width that `check` accepts, without a pixel to ignore."""

    def to_stored(self, label: np.ndarray) -> np.ndarray:
        """What is stored: uint8 `[h, w]` or `[h, w, stored_channels]` for a PNG, or the label itself.

        Values that steps of a PNG do not meet are rounded: whoever stores compares what `from_stored` gives back.
        """
        return label

    def from_stored(self, stored: np.ndarray) -> np.ndarray:
        """The label, from what `to_stored` made of it."""
        return stored

    # For people

    @abc.abstractmethod
    def draw_prediction(
        self, task: Task, prediction: Float[np.ndarray, "h w c"], label: Shaped[np.ndarray, "h w *vector"] | None = None
    ) -> Picture:
        """A raw prediction as a picture, on the scale of the label's picture where a label is given."""

    @abc.abstractmethod
    def draw_label(self, task: Task, label: Shaped[np.ndarray, "h w *vector"]) -> Picture:
        """A label as a picture; what is to be ignored is grey."""

    @abc.abstractmethod
    def decode(self, task: Task, prediction: Float[np.ndarray, "*b h w c"]) -> dict[str, np.ndarray]:
        """A raw prediction in plain values, by what they are (classes, metres ..); shapes `[*b, h, w, ..]`."""


KINDS: dict[str, Kind] = {}
"""The kinds that `Task.kind` may name."""


def register(kind: Kind) -> Kind:
    """Adds a kind, from a recipe file say; the same class may be registered again, as recipes may be loaded twice.

    Raises:
      UserError: another class has this name.
    """
    known = KINDS.get(kind.name)
    identity = [(type(each).__module__, type(each).__qualname__) for each in (known, kind)]
    if known is not None and identity[0] != identity[1]:
        raise UserError(f"the kind {kind.name!r} is {'.'.join(identity[0])} already; give yours another name")
    KINDS[kind.name] = kind
    return kind


def masked_sums(values: Float[Array, "b h w"], valid: Shaped[Array, "b h w"]) -> dict[str, Array]:
    """`sum` of the valid pixels' values, and their `count`."""
    return {"sum": jnp.sum(jnp.where(valid, values, 0.0)), "count": jnp.sum(valid)}


def as_float(count: Any) -> Any:
    """A count that can be divided by: JAX's integers as float32, NumPy's float64 as it is."""
    return count if count.dtype.kind == "f" else count.astype(np.float32)


def at_least_one(count: Any) -> Any:
    """A count as a divisor: 1 where it is 0, so that nothing over nothing is 0."""
    return as_float(count + (count == 0).astype(count.dtype))


def grey(values: Float[np.ndarray, "h w"]) -> Picture:
    """0..1 from black to white; what is outside is clipped."""
    levels = (255 * np.asarray(values, np.float32)).clip(0, 255).astype(np.uint8)
    return np.repeat(levels[..., None], 3, axis=-1)


def mark_ignored(picture: Picture, label: Shaped[np.ndarray, "h w *vector"]) -> Picture:
    """The picture, in place, with grey where the label is to be ignored."""
    ignored = label == IGNORE
    picture[ignored if label.ndim == 2 else ignored.any(-1)] = _GREY
    return picture
