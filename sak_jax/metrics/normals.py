"""Mean angular error of surface normals."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from sak_jax.losses import unit_vectors
from sak_jax.metrics.metric import Metric, mean
from sak_jax.tasks import IGNORE


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
