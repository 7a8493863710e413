"""A task's own loss as its metric, for tasks without a better one."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

from sak_jax import losses
from sak_jax.metrics.metric import Metric
from sak_jax.tasks import IGNORE, Task


class MeanLoss(Metric):
    """A task's unweighted loss over all valid pixels of the data set, as if that were one batch."""

    name = "loss"
    higher_is_better = False

    def __init__(self, task: Task):
        self.task_loss = losses.for_task(task)

    def batch(
        self, prediction: Float[Array, "b h w c"], label: Shaped[Array, "b h w *vector"], mask: Bool[Array, " b"]
    ) -> dict[str, Array]:
        """The sums of the task's loss."""
        counted = mask.reshape(-1, *(1,) * (label.ndim - 1))
        return self.task_loss.sums(prediction, jnp.where(counted, label, jnp.asarray(IGNORE, label.dtype)))

    def result(self, totals: Mapping[str, np.ndarray | float]) -> dict[str, float]:
        """The mean loss."""
        counted = sum(float(total) for key, total in totals.items() if key.endswith("count"))
        return {"loss": float(self.task_loss.mean(totals)) if counted else float("nan")}
