"""Root mean square error of depth."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from sak_jax.metrics.metric import Metric, mean

MAXIMUM_DEPTH = 80.0  # metres; also what leaves out the ignore value 255


class RootMeanSquareError(Metric):
    """RMSE in metres over all pixels of the data set with 0 < label < 80; predictions below 0 count as 0."""

    name = "RMSE"
    higher_is_better = False

    def batch(
        self, prediction: Float[Array, "b h w 1"], label: Float[Array, "b h w"], mask: Bool[Array, " b"]
    ) -> dict[str, Array]:
        """Sum of squared errors and count of pixels."""
        label = label.astype(jnp.float32)
        valid = (label > 0) & (label < MAXIMUM_DEPTH) & mask[:, None, None]
        error = jnp.maximum(prediction[..., 0].astype(jnp.float32), 0.0) - label
        return {"squared_error": jnp.sum(jnp.where(valid, jnp.square(error), 0.0)), "count": jnp.sum(valid)}

    def result(self, totals: Mapping[str, np.ndarray | float]) -> dict[str, float]:
        """The RMSE in metres."""
        return {"RMSE": float(np.sqrt(mean(totals["squared_error"], totals["count"])))}
