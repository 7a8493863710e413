"""Surface normals."""

from collections.abc import Mapping

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, UInt8

from sak_jax.errors import UserError
from sak_jax.tasks.kind import IGNORE, Kind, Picture, Task, mark_ignored, masked_sums
from sak_jax.tasks.metric import Metric, mean

EPSILON = 1e-12  # shortest vector that has a direction, as in torch.nn.functional.normalize

_COMPONENTS = (2 * np.arange(256, dtype=np.float32) / np.float32(255) - 1)[None]


class MeanAngularError(Metric):
    """Mean angle in degrees between prediction and label over all valid pixels of the data set.

    `2 atan2(|p - g|, |p + g|)` of the unit vectors, which unlike an arc cosine is exact for small angles. A prediction
    of length zero is 90 degrees off.
    """

    name = "mErr"
    higher_is_better = False

    def batch(
        self, prediction: Float[Array, "b h w 3"], label: Float[Array, "b h w 3"], mask: Bool[Array, " b"]
    ) -> dict[str, Array]:
        """Sum of angles in degrees and count of pixels."""
        valid = jnp.all(label != IGNORE, axis=-1) & mask[:, None, None]
        predicted, truth = unit_vectors(prediction), unit_vectors(label)
        apart = jnp.linalg.norm(predicted - truth, axis=-1)
        together = jnp.linalg.norm(predicted + truth, axis=-1)
        angle = jnp.degrees(2 * jnp.arctan2(apart, together))
        return {"angle": jnp.sum(jnp.where(valid, angle, 0.0)), "count": jnp.sum(valid)}

    def result(self, totals: Mapping[str, np.ndarray | float]) -> dict[str, float]:
        """The mean angle in degrees."""
        return {"mErr": mean(totals["angle"], totals["count"])}


class Normals(Kind):
    """Labels are unit vectors, float32 `[h, w, 3]`, all zero where unknown; a prediction counts by its direction."""

    name = "normals"
    channels = 3
    metrics = {"mErr": MeanAngularError}
    dtypes = (np.float32,)
    vector = (3,)
    encodings = ("rgb_normals",)
    stored_channels = 4

    def loss_sums(
        self, task: Task, prediction: Float[Array, "b h w 3"], label: Float[Array, "b h w 3"]
    ) -> dict[str, Array]:
        """Sums of |unit prediction - label| over channels and valid pixels; a pixel is valid if no channel is 255.

        A prediction of length zero stays zero and gets a zero gradient: its direction is undefined, and the limit of
        `x / max(|x|, 1e-12)`, of which this is the value, would be a gradient of 1e12 that drowns every other one.
        """
        difference = jnp.abs(unit_vectors(prediction) - label.astype(jnp.float32))
        return masked_sums(jnp.sum(difference, axis=-1), jnp.all(label != IGNORE, axis=-1))

    def check_values(self, task: Task, label: np.ndarray, where: str) -> None:
        """Finite components."""
        if not (label.min() > -np.inf and label.max() < np.inf):  # NaN is neither.
            raise UserError(f"{where} has labels of task {task.name!r} that are not finite; zero vectors are invalid")

    def flip(self, task: Task, label: Float32[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h w 3"]:
        """The x component changes sign."""
        label[..., 0] *= -1
        return label

    def ignore(self, task: Task, label: Float32[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h w 3"]:
        """255 where the vector is zero."""
        zero = label == 0
        if zero.any():
            invalid = cv2.inRange(zero.view(np.uint8), (1, 1, 1), (1, 1, 1))
            cv2.copyTo(np.full_like(label, IGNORE), invalid, label)  # Five times as fast as assignment by index.
        return label

    def random_label(self, task: Task, size: tuple[int, int], rng: np.random.Generator) -> Float32[np.ndarray, "h w 3"]:
        """Directions drawn uniformly."""
        vectors = rng.standard_normal((*size, 3), np.float32)
        return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)

    def to_stored(self, label: Float32[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 4"]:
        """Components in steps of 2 / 255, and 255 in the fourth channel where they are valid."""
        valid = label.any(axis=-1)
        colours = np.where(valid[..., None], np.rint((label + 1) * 127.5), 0).astype(np.uint8)
        return np.dstack([colours, np.where(valid, 255, 0).astype(np.uint8)])

    def from_stored(self, stored: UInt8[np.ndarray, "h w 4"]) -> Float32[np.ndarray, "h w 3"]:
        """Components; 0 where they are not valid."""
        label = cv2.LUT(cv2.cvtColor(stored, cv2.COLOR_BGRA2BGR), _COMPONENTS)  # Drops a channel; slicing is slow.
        label[stored[..., 3] == 0] = 0
        return label

    def draw_prediction(
        self, task: Task, prediction: Float[np.ndarray, "h w 3"], label: Float32[np.ndarray, "h w 3"] | None = None
    ) -> Picture:
        """x, y and z from -1 to 1 as red, green and blue."""
        return _colours(self.decode(task, prediction)["normals"])

    def draw_label(self, task: Task, label: Float32[np.ndarray, "h w 3"]) -> Picture:
        """The same of the label."""
        return mark_ignored(_colours(label), label)

    def decode(self, task: Task, prediction: Float[np.ndarray, "*b h w 3"]) -> dict[str, np.ndarray]:
        """`normals`, float32 vectors of length 1; zero where the prediction is."""
        prediction = np.asarray(prediction, np.float32)
        return {"normals": prediction / np.maximum(np.linalg.norm(prediction, axis=-1, keepdims=True), 1e-6)}


def _colours(vectors: Float[np.ndarray, "h w 3"]) -> Picture:
    return np.clip((vectors + 1) * 127.5, 0, 255).astype(np.uint8)


def unit_vectors(vectors: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3"]:
    """The vectors scaled to length 1, in float32; shorter than 1e-12 gives zeros, with zero gradient."""
    vectors = vectors.astype(jnp.float32)
    squared = jnp.sum(jnp.square(vectors), axis=-1, keepdims=True)
    long_enough = squared > EPSILON**2
    # The inner `where` keeps the square root's infinite slope at 0 out of the gradient.
    return jnp.where(long_enough, vectors * jax.lax.rsqrt(jnp.where(long_enough, squared, 1.0)), 0.0)
