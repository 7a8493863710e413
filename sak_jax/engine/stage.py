"""A stage of training, as a value that the loop is given."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
import optax
from flax import nnx

Batch = Mapping[str, Any]
Logs = dict[str, jax.Array]
Weights = dict[tuple, np.ndarray]
"""Arrays on the host by their path in a model."""


@runtime_checkable
class Batches(Protocol):
    """An iterator over this process's batches that can be set back to where it was.

    Attributes:
      images: samples there are to draw from, the same for all processes.
    """

    images: int

    def __len__(self) -> int: ...

    def __next__(self) -> dict[str, np.ndarray]: ...

    def __iter__(self) -> "Batches": ...

    def get_state(self) -> dict[str, int]:
        """Where it is."""

    def set_state(self, state: dict[str, int]) -> None:
        """Goes on from there."""

    def close(self) -> None:
        """Ends threads and processes."""


@dataclasses.dataclass(frozen=True)
class Part:
    """What a loss sees of a batch: all of it, or with accumulation one part after another.

    Attributes:
      batch: images and labels of the part.
      key: for noise; another one for every step and part.
      whole: what `Stage.totals` says of the whole batch, None without.
      share: the part's share of the batch, 1 / number of parts. Losses and logs of the parts are added up, so that a
        mean over images is to be multiplied by it.
      step: updates made before this one, for what follows a schedule.
    """

    batch: Batch
    key: jax.Array
    whole: Any
    share: float
    step: jax.Array | int = 0


Loss = Callable[[nnx.Module, Any, Part], tuple[jax.Array, Logs]]
"""(model, features, part) -> the loss and what is logged; the model's statistics are updated in place."""


@dataclasses.dataclass(frozen=True)
class Frozen:
    """Arrays that a stage's loss needs and no step changes, such as the teachers' parameters.

    Attributes:
      abstract: their shapes and dtypes.
      load: (tree of shardings) -> the arrays, each read straight to its place.
      features: (arrays, batch) -> what the loss is given; no gradient flows through it.
    """

    abstract: Any
    load: Callable[[Any], Any]
    features: Callable[[Any, Batch], Any]


@dataclasses.dataclass(frozen=True)
class Start:
    """What a stage starts from.

    Attributes:
      name: for messages; "" for random weights.
      weights: of these parameters; the others stay as initialised.
    """

    name: str = ""
    weights: Weights = dataclasses.field(default_factory=dict)


@runtime_checkable
class Metric(Protocol):
    """A score from sums over batches, see `sak_jax.tasks.kind.Metric`."""

    name: str
    on_host: bool

    def batch(self, prediction, label, mask, *size) -> dict[str, Any]:
        """Sums over a batch."""

    def result(self, totals: Mapping[str, Any]) -> dict[str, float]:
        """Scores by name from such sums."""

    def close(self) -> None:
        """Ends what `batch` may have started."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How a stage's model is scored.

    Attributes:
      batches: opens a pass over the validation set, in order, each batch with `mask` (and `size`, where images are
        padded).
      images: how many there are.
      skipped: how many were left out when the set was opened.
      metrics: by the key of their labels in a batch and of the prediction.
      predict: (model, batch) -> `{key: prediction}`.
      score: the scores as one number by which checkpoints are compared (greater is better), None where there is none.
      sample: the transformed validation sample of an index, for pictures.
    """

    batches: Callable[[], Batches]
    images: int
    skipped: int
    metrics: Mapping[str, Metric]
    predict: Callable[[nnx.Module, Batch], dict[str, jax.Array]]
    score: Callable[[Mapping[str, float]], float | None]
    sample: Callable[[int], dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of training: all that the loop has to know of it.

    Attributes:
      name: names its checkpoints and its lines in the log.
      steps: updates it makes.
      create: makes the model with fresh parameters.
      trainable: NNX filter of what is trained.
      loss: what is minimised.
      optimizer, schedule: of the updates; the schedule is what the optimiser follows, and is logged.
      batches: opens this process's endless training batches.
      inputs: shapes and dtypes of a global batch.
      start: (the model's state after the stage before, or None) -> what this one starts from.
      evaluation: opens the validation set; None where there is nothing to score.
      frozen: what the loss needs besides, or None.
      totals: (batch) -> what the loss of a part has to know of the whole batch, or None.
      accumulate: parts a batch is split into, one after another.
      teach_whole: with parts, the frozen features are computed once, of the whole batch, instead of each part's.
      eval_every: steps between evaluations; 0 is only at the end.
    """

    name: str
    steps: int
    create: Callable[[nnx.Rngs], nnx.Module]
    trainable: Callable[..., bool]
    loss: Loss
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    batches: Callable[[], Batches]
    inputs: Mapping[str, jax.ShapeDtypeStruct]
    start: Callable[[nnx.State | None], Start]
    evaluation: Callable[[], Evaluation] | None = None
    frozen: Frozen | None = None
    totals: Callable[[Batch], Any] | None = None
    accumulate: int = 1
    teach_whole: bool = False
    eval_every: int = 0
