"""Distance from the camera."""

from collections.abc import Mapping

import cv2
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32

from sak_jax.errors import UserError
from sak_jax.tasks.kind import IGNORE, Kind, Picture, Task, mark_ignored, masked_sums
from sak_jax.tasks.metric import Metric, mean


class RootMeanSquareError(Metric):
    """RMSE in metres over all pixels of the data set with 0 < label < the task's `maximum`.

    Predictions below 0 count as 0.
    """

    name = "RMSE"
    higher_is_better = False

    def batch(
        self, prediction: Float[Array, "b h w 1"], label: Float[Array, "b h w"], mask: Bool[Array, " b"]
    ) -> dict[str, Array]:
        """Sum of squared errors and count of pixels."""
        label = label.astype(jnp.float32)
        valid = (label > 0) & (label < self.task.option("maximum")) & (label != IGNORE) & mask[:, None, None]
        error = jnp.maximum(prediction[..., 0].astype(jnp.float32), 0.0) - label
        return {"squared_error": jnp.sum(jnp.where(valid, jnp.square(error), 0.0)), "count": jnp.sum(valid)}

    def result(self, totals: Mapping[str, np.ndarray | float]) -> dict[str, float]:
        """The RMSE in metres."""
        return {"RMSE": float(np.sqrt(mean(totals["squared_error"], totals["count"])))}


class Depth(Kind):
    """Labels are metres, float32, 0 where nothing was measured; the prediction is metres too.

    Options: `maximum`, metres from which on labels do not count in the RMSE.
    """

    name = "depth"
    channels = 1
    options = {"maximum": 80.0}
    metrics = {"RMSE": RootMeanSquareError}
    dtypes = (np.float32,)
    encodings = ("metres", "millimetres", "fraction")

    def check_task(self, task: Task) -> None:
        """A positive maximum."""
        if not task.option("maximum") > 0:
            raise UserError(f"tasks.{task.name}.maximum is {task.option('maximum')}; it must be positive, in metres")

    def loss_sums(
        self, task: Task, prediction: Float[Array, "b h w 1"], label: Float[Array, "b h w"]
    ) -> dict[str, Array]:
        """Sums of |prediction - label| in metres over valid pixels (SAK, section 4.1)."""
        difference = prediction[..., 0].astype(jnp.float32) - label.astype(jnp.float32)
        return masked_sums(jnp.abs(difference), label != IGNORE)

    def check_values(self, task: Task, label: np.ndarray, where: str) -> None:
        """Finite and not negative."""
        if not (label.min() >= 0 and label.max() < np.inf):  # NaN is neither.
            raise UserError(f"{where} has labels of task {task.name!r} that are negative or not finite; 0 is invalid")

    def scale(self, task: Task, label: Float32[np.ndarray, "h w"], factor: float) -> Float32[np.ndarray, "h w"]:
        """Divided by the factor: what looks larger is nearer."""
        label /= np.float32(factor)
        return label

    def ignore(self, task: Task, label: Float32[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
        """255 where nothing was measured."""
        label[label == 0] = IGNORE
        return label

    def random_label(self, task: Task, size: tuple[int, int], rng: np.random.Generator) -> Float32[np.ndarray, "h w"]:
        """Uniform in 1..10 metres."""
        return 1 + 9 * rng.random(size, np.float32)

    def draw_prediction(
        self, task: Task, prediction: Float[np.ndarray, "h w 1"], label: Float32[np.ndarray, "h w"] | None = None
    ) -> Picture:
        """From dark blue at 0 to yellow at the label's largest depth, or without a label the prediction's own."""
        metres = prediction[..., 0]
        return _colours(metres, _farthest(label) if label is not None else max(float(metres.max()), 1e-3))

    def draw_label(self, task: Task, label: Float32[np.ndarray, "h w"]) -> Picture:
        """From dark blue at 0 to yellow at the largest depth."""
        return mark_ignored(_colours(np.where(label != IGNORE, label, 0), _farthest(label)), label)

    def decode(self, task: Task, prediction: Float[np.ndarray, "*b h w 1"]) -> dict[str, np.ndarray]:
        """`metres`, float32; what is predicted below 0 is 0."""
        return {"metres": np.maximum(np.asarray(prediction[..., 0], np.float32), 0)}


def _farthest(label: Float32[np.ndarray, "h w"]) -> float:
    valid = label != IGNORE
    return float(label[valid].max()) if valid.any() else 1.0


def _colours(metres: Float[np.ndarray, "h w"], far: float) -> Picture:
    levels = (255 * np.clip(metres / far, 0, 1)).astype(np.uint8)
    return cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS)[..., ::-1].copy()
