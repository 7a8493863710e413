"""Boundaries between objects."""

import functools
import math
from collections.abc import Mapping

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, UInt8
from scipy.special import expit

from sak_jax.boundary import score
from sak_jax.boundary.maps import protocol_named
from sak_jax.errors import UserError
from sak_jax.tasks.kind import IGNORE, Kind, Picture, Task, grey, mark_ignored, masked_sums
from sak_jax.tasks.metric import Metric

POSITIVE_WEIGHT = 0.95


class BoundaryScore(Metric):
    """odsF, and oisF and AP beside it, in percent.

    Predictions are quantised to 0..255 as if they had been saved as PNG (rounded down, as published predictions are),
    and the padding around each image is cut off first. Images are evaluated in parallel by processes of their own,
    started when the first batch arrives and ended by `close`. A script that uses them needs the usual
    `if __name__ == "__main__":`.

    Args:
      task: whose predictions are scored.
      max_distance: how far apart matched pixels may be, as a fraction of the diagonal: 0.011 for NYUD-v2, 0.0075 for
        PASCAL-Context.
      protocol: "sak" or "invpt"; their scores are not comparable.
      truth: "label_map" or "boundary", see `sak_jax.boundary.score.truth_of_boundary`.
      workers: processes; None for one a processor that this process may use, 1 for none (in this process).

    Raises:
      UserError: an unknown protocol or truth.
    """

    name = "odsF"
    others = ("oisF", "AP")
    higher_is_better = True
    on_host = True

    def __init__(
        self,
        task: Task,
        max_distance: float = 0.011,
        protocol: str = "sak",
        truth: str = "label_map",
        workers: int | None = None,
    ):
        super().__init__(task)
        protocol_named(protocol)
        score.check_truth(truth)
        self._evaluate = functools.partial(
            score.evaluate_annotated, max_distance=max_distance, protocol=protocol, truth=truth
        )
        self._pool = score.WorkerPool(workers)

    def batch(
        self,
        prediction: Float[Array | np.ndarray, "b h w 1"],
        label: Float[Array | np.ndarray, "b h w"],
        mask: Bool[Array | np.ndarray, " b"],
        size: Int[Array | np.ndarray, "b 2"] | None = None,
    ) -> dict[str, np.ndarray]:
        """Counts summed over the images of a batch, int64.

        Args:
          prediction: boundary logits at image size.
          label: boundary strength in 0..1; above 0 is boundary, 255 (ignore) is not.
          mask: False for rows that only fill up the batch.
          size: height and width of each image inside its centred padding, in pixels; None if there is no padding.

        Returns:
          `counts` [99, 4] and `best` [4], see `sak_jax.boundary.score.scores`.

        Raises:
          EndedEarly: a process was killed.
        """
        prediction, label, mask = np.asarray(prediction, np.float32), np.asarray(label), np.asarray(mask)
        images = []
        for index in np.flatnonzero(mask):
            window = ... if size is None else _window(label.shape[1:], np.asarray(size)[index])
            # float32 throughout: the last bit decides which side of a whole number a value falls on.
            quantised = (expit(prediction[index, ..., 0][window]) * np.float32(255)).astype(np.uint8)
            boundary = label[index][window]
            images.append((quantised, (boundary > 0) & (boundary != IGNORE)))
        return score.total(self._pool.map(self._evaluate, images))

    def close(self) -> None:
        """Ends the processes, if there are any."""
        self._pool.close()

    def result(self, totals: Mapping[str, np.ndarray | float]) -> dict[str, float]:
        """odsF, oisF and AP in percent; NaN if there is no true pixel."""
        values = score.scores(totals["counts"], totals["best"])
        return {name: 100 * values[name] for name in ("odsF", "oisF", "AP")}


def _window(padded: tuple[int, int], size: np.ndarray) -> tuple[slice, slice]:
    """The image inside its centred padding; an odd pixel of padding is after it."""
    top, left = ((int(outer) - int(inner)) // 2 for outer, inner in zip(padded, size, strict=True))
    return slice(top, top + int(size[0])), slice(left, left + int(size[1]))


class Boundary(Kind):
    """Labels are the strength of a boundary in 0..1, float32 or bytes 0 and 1; the prediction is its logit."""

    name = "boundary"
    channels = 1
    metrics = {"odsF": BoundaryScore}
    dtypes = (np.float32, np.uint8)
    encodings = ("fraction", "binary", "index")
    stored_channels = 1

    def loss_sums(
        self, task: Task, prediction: Float[Array, "b h w 1"], label: Float[Array, "b h w"]
    ) -> dict[str, Array]:
        """Sums of -[0.95 y log p + 0.05 (1 - y) log(1 - p)] over valid pixels; p = sigmoid(prediction), y in 0..1."""
        logits, target = prediction[..., 0].astype(jnp.float32), label.astype(jnp.float32)
        positive = POSITIVE_WEIGHT * target * jax.nn.log_sigmoid(logits)
        negative = (1 - POSITIVE_WEIGHT) * (1 - target) * jax.nn.log_sigmoid(-logits)
        return masked_sums(-(positive + negative), label != IGNORE)

    def check_values(self, task: Task, label: np.ndarray, where: str) -> None:
        """0..1, or 255."""
        if 0 <= label.min() and label.max() <= 1:  # Mostly so, and told five times as fast.
            return
        wrong = ~(((label >= 0) & (label <= 1)) | (label == IGNORE))
        if wrong.any():
            raise UserError(
                f"{where} has the label {label[wrong][0]} of task {task.name!r}, whose labels are 0..1, or 255 for "
                f"void: set data.encodings.{task.name} to fraction, or mend the labels"
            )

    def shrink(self, task: Task, label: np.ndarray, factor: float) -> np.ndarray:
        """Widened, so that no gaps come into boundaries; where there is one, nothing is unknown."""
        width = math.ceil(1 / factor)
        strength = np.where(label == IGNORE, 0, label).astype(label.dtype)
        widened = cv2.dilate(strength, np.ones((width, width), np.uint8))
        return np.where((label == IGNORE) & (widened == 0), label, widened)

    def random_label(self, task: Task, size: tuple[int, int], rng: np.random.Generator) -> Float32[np.ndarray, "h w"]:
        """0 or 1 with equal probability."""
        return rng.random(size, np.float32).round()

    def to_stored(self, label: np.ndarray) -> UInt8[np.ndarray, "h w"]:
        """Steps of 1 / 255."""
        return np.rint(label * 255).astype(np.uint8)

    def from_stored(self, stored: UInt8[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
        """0..1."""
        return stored / np.float32(255)

    def draw_prediction(
        self, task: Task, prediction: Float[np.ndarray, "h w 1"], label: np.ndarray | None = None
    ) -> Picture:
        """The probability, from black to white."""
        return grey(self.decode(task, prediction)["probability"])

    def draw_label(self, task: Task, label: np.ndarray) -> Picture:
        """The strength, from black to white."""
        return mark_ignored(grey(label.astype(np.float32)), label)

    def decode(self, task: Task, prediction: Float[np.ndarray, "*b h w 1"]) -> dict[str, np.ndarray]:
        """`probability` of a boundary, float32 in 0..1."""
        return {"probability": expit(np.asarray(prediction[..., 0], np.float32))}
