"""A kind of task of one's own: optical flow, two channels of pixels."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from sak_jax.tasks.kind import IGNORE, Kind, Task, grey, mark_ignored, masked_sums
from sak_jax.tasks.metric import Metric, mean


class EndpointError(Metric):
    """Mean distance in pixels between predicted and true flow."""

    name = "EPE"
    higher_is_better = False

    def batch(self, prediction, label, mask):
        valid = jnp.all(label != IGNORE, axis=-1) & mask[:, None, None]
        distance = jnp.linalg.norm(prediction.astype(jnp.float32) - label, axis=-1)
        return {"distance": jnp.sum(jnp.where(valid, distance, 0.0)), "count": jnp.sum(valid)}

    def result(self, totals: Mapping):
        return {"EPE": mean(totals["distance"], totals["count"])}


class Flow(Kind):
    """Displacement to the next image in pixels: right, down."""

    name = "flow"
    channels = 2
    metrics = {"EPE": EndpointError}
    dtypes = (np.float32,)
    vector = (2,)
    encodings = ("flow",)

    def loss_sums(self, task: Task, prediction, label):
        difference = jnp.abs(prediction.astype(jnp.float32) - label)
        return masked_sums(jnp.sum(difference, axis=-1), jnp.all(label != IGNORE, axis=-1))

    def scale(self, task: Task, label, factor):
        label *= np.float32(factor)
        return label

    def flip(self, task: Task, label):
        label[..., 0] *= -1
        return label

    def random_label(self, task: Task, size, rng):
        return rng.standard_normal((*size, 2), np.float32)

    def draw_prediction(self, task: Task, prediction, label=None):
        return grey(np.linalg.norm(prediction, axis=-1) / 8)

    def draw_label(self, task: Task, label):
        return mark_ignored(grey(np.linalg.norm(label, axis=-1) / 8), label)

    def decode(self, task: Task, prediction):
        return {"pixels": np.asarray(prediction, np.float32)}
