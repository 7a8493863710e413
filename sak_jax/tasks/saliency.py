"""Saliency: whether a pixel belongs to what one looks at first."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped, UInt8
from scipy.special import expit

from sak_jax.errors import UserError
from sak_jax.tasks.classes import Classes, MeanIoU, negative_log_likelihood
from sak_jax.tasks.kind import IGNORE, Picture, Task, as_float, at_least_one, grey, mark_ignored, masked_sums
from sak_jax.tasks.metric import Metric

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


class Saliency(Classes):
    """Two classes, uint8 0 and 1 (salient), whose shares of the pixels balance the loss."""

    name = "saliency"
    channels = 2
    options = {}
    metrics = {"maxF": MaximalFMeasure, "mIoU": MeanIoU}
    encodings = ("binary", "index", "index_from_1")

    def check_task(self, task: Task) -> None:
        """Nothing beyond the two channels."""

    def loss_sums(
        self, task: Task, prediction: Float[Array, "b h w c"], label: Shaped[Array, "b h w"]
    ) -> dict[str, Array]:
        """Sums of the two classes' cross entropy apart: `background/*` for label 0, `foreground/*` for label 1.

        Raises:
          UserError: the prediction has not two channels.
        """
        if prediction.shape[-1] != 2:
            raise UserError(f"the kind saliency needs 2 channels, not {prediction.shape[-1]}: set the task's")
        values = negative_log_likelihood(prediction, label)
        classes = {"background": label == 0, "foreground": label == 1}
        return {
            f"{name}/{key}": value
            for name, pixels in classes.items()
            for key, value in masked_sums(values, pixels).items()
        }

    def loss_mean(self, sums: Mapping[str, Any]) -> Any:
        """Either class weighted by the other's share of all valid pixels, over their count (SAK's code)."""
        background, foreground = sums["background/count"], sums["foreground/count"]
        count = at_least_one(background + foreground)
        background_share, foreground_share = as_float(background) / count, as_float(foreground) / count
        weighted = foreground_share * sums["background/sum"] + background_share * sums["foreground/sum"]
        return weighted / count

    def draw_prediction(
        self, task: Task, prediction: Float[np.ndarray, "h w 2"], label: UInt8[np.ndarray, "h w"] | None = None
    ) -> Picture:
        """The probability, from black to white."""
        return grey(self.decode(task, prediction)["probability"])

    def draw_label(self, task: Task, label: UInt8[np.ndarray, "h w"]) -> Picture:
        """White where the pixel is salient."""
        return mark_ignored(grey((label == 1).astype(np.float32)), label)

    def decode(self, task: Task, prediction: Float[np.ndarray, "*b h w 2"]) -> dict[str, np.ndarray]:
        """`probability` of being salient, float32 in 0..1."""
        prediction = np.asarray(prediction, np.float32)
        return {"probability": expit(prediction[..., 1] - prediction[..., 0])}
