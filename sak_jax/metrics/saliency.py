"""Maximal F-measure of saliency."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

from sak_jax.metrics.metric import Metric
from sak_jax.tasks import IGNORE

THRESHOLDS = np.arange(1, 20, dtype=np.float32) / np.float32(20)  # 0.05, 0.10 .. 0.95
BETA_SQUARED = 0.3


class MaximalFMeasure(Metric):
    """The best F-measure (beta^2 = 0.3) in percent over thresholds 0.05, 0.10 .. 0.95 on class 1's probability.

    A pixel is salient from the threshold on (>=). Counts are pooled over the data set before the maximum is taken.
    """

    name = "maxF"
    higher_is_better = True

    def batch(
        self, prediction: Float[Array, "b h w 2"], label: Shaped[Array, "b h w"], mask: Bool[Array, " b"]
    ) -> dict[str, Array]:
        """Counts of salient pixels: truly predicted and predicted, a threshold (int32 `[19]`), and labelled (`[]`)."""
        valid = (label != IGNORE) & mask[:, None, None]
        probability = jax.nn.softmax(prediction.astype(jnp.float32), axis=-1)[..., 1]
        predicted = (probability[..., None] >= jnp.asarray(THRESHOLDS)) & valid[..., None]
        labelled = (label == 1) & valid
        pixels = (0, 1, 2)
        return {
            "true_positive": jnp.sum(predicted & labelled[..., None], axis=pixels),
            "predicted": jnp.sum(predicted, axis=pixels),
            "labelled": jnp.sum(labelled),
        }

    def result(self, totals: Mapping[str, np.ndarray | float]) -> dict[str, float]:
        """The maximal F-measure in percent; 0 if nothing is salient."""
        # (1 + beta^2) P R / (beta^2 P + R) with P = true / predicted and R = true / labelled
        denominator = BETA_SQUARED * totals["labelled"] + totals["predicted"]
        f_measure = (1 + BETA_SQUARED) * totals["true_positive"] / np.maximum(denominator, 1e-8)
        return {"maxF": float(np.max(f_measure) * 100)}
