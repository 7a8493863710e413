"""What every metric is."""

import abc
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from jaxtyping import Array, Bool, Float, Shaped


class Metric(abc.ABC):
    """A score over a data set, from sums over its batches.

    The evaluation loop calls `batch` for each batch (inside the jitted step unless `on_host`), adds up what it returns
    in float64 on the host, and calls `result` once with the totals.

    Attributes:
      name: the key of the score.
      higher_is_better: the score's direction.
      on_host: `batch` is NumPy code, stays outside the jitted step, sees the rows of its own process and gets `size`,
        int32 [b, 2], the images' height and width inside their centred padding, as a fourth argument.
    """

    name: ClassVar[str]
    higher_is_better: ClassVar[bool]
    on_host: ClassVar[bool] = False

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


def mean(total: np.ndarray | float, count: np.ndarray | float) -> float:
    """`total / count`, NaN for a count of 0."""
    return float(total) / float(count) if count else float("nan")
