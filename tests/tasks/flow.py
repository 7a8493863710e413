"""A kind of task of one's own: optical flow, two channels, in a file outside the package."""

import jax.numpy as jnp
import numpy as np

from sak_jax.tasks import IGNORE, Kind, Metric
from sak_jax.tasks.kind import masked_sums


class EndpointError(Metric):
    name = "EPE"
    higher_is_better = False

    def batch(self, prediction, label, mask):
        valid = jnp.all(label != IGNORE, axis=-1) & mask[:, None, None]
        return masked_sums(jnp.linalg.norm(prediction - label, axis=-1), valid)

    def result(self, totals):
        return {"EPE": float(totals["sum"] / totals["count"]) if totals["count"] else float("nan")}


class Flow(Kind):
    """Labels are pixels to the right and down, float32 [h, w, 2]."""

    name = "flow"
    channels = 2
    options = {"longest": 32.0}
    metrics = {"EPE": EndpointError}
    dtypes = (np.float32,)
    vector = (2,)
    encodings = ("array",)

    def loss_sums(self, task, prediction, label):
        valid = jnp.all(label != IGNORE, axis=-1)
        return masked_sums(jnp.sum(jnp.abs(prediction.astype(jnp.float32) - label), axis=-1), valid)

    def shrink(self, task, label, factor):
        return label * np.float32(factor)

    def scale(self, task, label, factor):
        label *= np.float32(factor)
        return label

    def flip(self, task, label):
        label[..., 0] *= -1
        return label

    def random_label(self, task, size, rng):
        return rng.uniform(-1, 1, (*size, 2)).astype(np.float32)

    def draw_prediction(self, task, prediction, label=None):
        return self.draw_label(task, prediction)

    def draw_label(self, task, label):
        levels = np.clip(label / task.option("longest") * 127.5 + 127.5, 0, 255).astype(np.uint8)
        return np.concatenate([levels, np.zeros_like(levels[..., :1])], axis=-1)

    def decode(self, task, prediction):
        return {"pixels": np.asarray(prediction, np.float32)}
