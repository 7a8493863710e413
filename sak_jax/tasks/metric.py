"""What every metric is, and the one that every kind of task has: its own loss."""

import abc
from collections.abc import Mapping
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

from sak_jax.tasks.kind import IGNORE, KINDS, Task


class Metric(abc.ABC):
    """A score over a data set, from sums over its batches.

    The evaluation loop calls `batch` for each batch (inside the jitted step unless `on_host`), adds up what it returns
    in float64 on the host, and calls `result` once with the totals.

    Args:
      task: whose predictions are scored.

    Attributes:
      name: the key of the score.
      others: keys of further scores beside it, of the same direction.
      higher_is_better: the score's direction.
      on_host: `batch` is NumPy code, stays outside the jitted step, sees the rows of its own process and gets `size`,
        int32 [b, 2], the images' height and width inside their centred padding, as a fourth argument.
    """

    name: ClassVar[str]
    others: ClassVar[tuple[str, ...]] = ()
    higher_is_better: ClassVar[bool]
    on_host: ClassVar[bool] = False

    def __init__(self, task: Task):
        self.task = task

    @abc.abstractmethod
    def batch(
        self, prediction: Float[Array, "b h w c"], label: Shaped[Array, "b h w *vector"], mask: Bool[Array, " b"]
    ) -> dict[str, Array]:
        """Sums over a batch, float32 or int32.

        Args:
          prediction: raw head output at image size.
          label: `[b, h, w]`, or `[b, h, w, 3]` for normals; 255 is not counted.
          mask: False for rows that only fill up the batch; they are not counted.
        """

    @abc.abstractmethod
    def result(self, totals: Mapping[str, np.ndarray | float]) -> dict[str, float]:
        """The score, `{name: value}`, from `batch`'s sums added up over the data set; NaN if nothing was counted."""

    def close(self) -> None:  # noqa: B027 - most have nothing to end
        """Ends what `batch` may have started, worker processes say; a later `batch` starts them again."""


class MeanLoss(Metric):
    """A task's unweighted loss over all valid pixels of the data set, as if that were one batch."""

    name = "loss"
    higher_is_better = False

    def batch(
        self, prediction: Float[Array, "b h w c"], label: Shaped[Array, "b h w *vector"], mask: Bool[Array, " b"]
    ) -> dict[str, Array]:
        """The sums of the task's loss."""
        counted = mask.reshape(-1, *(1,) * (label.ndim - 1))
        label = jnp.where(counted, label, jnp.asarray(IGNORE, label.dtype))
        return KINDS[self.task.kind].loss_sums(self.task, prediction, label)

    def result(self, totals: Mapping[str, np.ndarray | float]) -> dict[str, float]:
        """The mean loss."""
        counted = sum(float(total) for key, total in totals.items() if key.endswith("count"))
        return {"loss": float(KINDS[self.task.kind].loss_mean(totals)) if counted else float("nan")}


def mean(total: np.ndarray | float, count: np.ndarray | float) -> float:
    """`total / count`, NaN for a count of 0."""
    return float(total) / float(count) if count else float("nan")
