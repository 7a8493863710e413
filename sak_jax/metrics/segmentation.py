"""Mean intersection over union, for semantic segmentation and human parts."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

from sak_jax.metrics.metric import Metric
from sak_jax.tasks import IGNORE


class MeanIoU(Metric):
    """Mean over classes of intersection / union in percent, both pooled over the data set (SAK, section 4.1).

    As many classes as the prediction has channels. A class that neither labels nor predictions ever hold scores 0 and
    counts, as in the authors' evaluation; on the full data sets there is none.
    """

    name = "mIoU"
    higher_is_better = True

    def batch(
        self, prediction: Float[Array, "b h w c"], label: Shaped[Array, "b h w"], mask: Bool[Array, " b"]
    ) -> dict[str, Array]:
        """Pixels a class, int32 `[c]`: predicted and labelled so, predicted, labelled."""
        valid = (label != IGNORE) & mask[:, None, None]
        classes = jnp.arange(prediction.shape[-1])
        predicted = (jnp.argmax(prediction, axis=-1)[..., None] == classes) & valid[..., None]
        labelled = (label.astype(jnp.int32)[..., None] == classes) & valid[..., None]
        pixels = (0, 1, 2)
        return {
            "intersection": jnp.sum(predicted & labelled, axis=pixels),
            "predicted": jnp.sum(predicted, axis=pixels),
            "labelled": jnp.sum(labelled, axis=pixels),
        }

    def result(self, totals: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The mean IoU in percent."""
        union = totals["predicted"] + totals["labelled"] - totals["intersection"]
        return {"mIoU": float(np.mean(totals["intersection"] / np.maximum(union, 1)) * 100)}
